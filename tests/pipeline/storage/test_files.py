"""Files appear whole or not at all, on any store, and one process at a time drives a run."""

from __future__ import annotations

import json
import resource
import signal
import threading
import time

import fsspec
import pytest

from pipeline.base.errors import ConfigError, DataError, ShardError
from pipeline.storage.copies import local_copy
from pipeline.storage.files import read_bytes
from pipeline.storage.publish import write_bytes
from pipeline.storage.sole_driver import sole_driver


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    return filesystem


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("pipeline.storage.sole_driver.LEASE_RENEWAL_S", 0.02)
    monkeypatch.setattr("pipeline.storage.sole_driver.LEASE_PATIENCE_S", 0.2)


@pytest.mark.parametrize("place", ["{tmp}/a/b", "memory://a/b"])
def test_what_is_written_is_read(place, tmp_path, memory):
    url = place.format(tmp=tmp_path)
    write_bytes(f"{url}/x", b"1")
    write_bytes(f"{url}/x", b"22")
    assert read_bytes(f"{url}/x") == b"22"
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{url}/y")


def test_a_store_that_fails_is_named(memory, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("AccessDenied when calling PutObject")

    monkeypatch.setattr(memory, "pipe_file", refuse)
    with pytest.raises(ShardError, match="cannot write memory://a/x: AccessDenied .* same command again"):
        write_bytes("memory://a/x", b"")
    monkeypatch.setattr(memory, "cat_file", refuse)
    with pytest.raises(DataError, match="cannot read memory://a/x: AccessDenied"):
        read_bytes("memory://a/x")


def test_an_unknown_store_is_explained():
    with pytest.raises(ConfigError, match="nosuch://.*install s3fs"):
        read_bytes("nosuch://a/b")


def test_weights_of_a_store_are_fetched_once_and_again_when_they_change(memory, tmp_path, monkeypatch):
    monkeypatch.setenv("JODIFFUSION_CACHE", str(tmp_path / "cache"))
    write_bytes("memory://bundles/b/joint/model.safetensors", b"1")
    first = local_copy("memory://bundles/b")
    assert (first / "joint" / "model.safetensors").read_bytes() == b"1"
    got = []
    get = memory.get

    def spy(*args, **kwargs):
        got.append(args)
        return get(*args, **kwargs)

    monkeypatch.setattr(memory, "get", spy)
    assert local_copy("memory://bundles/b") == first and not got
    write_bytes("memory://bundles/b/joint/model.safetensors", b"22")
    assert (local_copy("memory://bundles/b") / "joint" / "model.safetensors").read_bytes() == b"22"
    assert not list((tmp_path / "cache").glob("*.draft"))
    assert local_copy(str(tmp_path)) == tmp_path
    with pytest.raises(DataError, match="memory://nothing: nothing is there"):
        local_copy("memory://nothing")


@pytest.mark.parametrize("place", ["{tmp}/run", "memory://run"])
def test_a_second_driver_is_refused_until_the_first_one_ends(place, tmp_path, memory):
    folder = place.format(tmp=tmp_path)
    for _ in range(2):
        with sole_driver(folder), pytest.raises(ConfigError, match="works on this run"), sole_driver(folder):
            pass


def test_a_full_disk_keeps_nobody_from_driving_a_run(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # files can be made, but hold nothing
    try:
        with sole_driver(str(tmp_path)):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_lease_whose_holder_died_is_taken_over(memory):
    write_bytes("memory://run/driver.lease", json.dumps({"host": "a", "pid": 1, "since": "now"}).encode())
    with sole_driver("memory://run"):
        assert json.loads(read_bytes("memory://run/driver.lease"))["host"] != "a"
    assert not memory.exists("/run/driver.lease"), "a driver that ends leaves nothing behind"


def test_of_two_drivers_that_begin_at_once_one_is_refused(memory):
    results = []
    barrier, done = threading.Barrier(2), threading.Event()

    def drive():
        barrier.wait()
        try:
            with sole_driver("memory://run"):
                results.append("drives")
                done.wait(1)
        except ConfigError:
            results.append("refused")
            done.set()

    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["drives", "refused"]


@pytest.mark.parametrize("harm", ["taken", "unreachable"])
def test_a_driver_that_lost_its_lease_stops(memory, monkeypatch, harm):
    """Another one may have begun meanwhile, on another machine."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray Train leaves one of its own behind
    with pytest.raises(KeyboardInterrupt), sole_driver("memory://run"):
        if harm == "taken":
            write_bytes("memory://run/driver.lease", b'{"token": "another"}')
        else:

            def refuse(*_, **__):
                raise RuntimeError("no network")

            monkeypatch.setattr(memory, "pipe_file", refuse)
        time.sleep(5)
    signal.signal(signal.SIGINT, before)


def test_a_store_that_fails_in_the_end_hides_no_other_error(memory, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no network")

    with pytest.raises(ShardError, match="disk"), sole_driver("memory://run"):
        monkeypatch.setattr(memory, "cat_file", refuse)
        raise ShardError("disk")


def test_a_folder_that_cannot_be_one_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match="cannot be the folder of a run: Not a directory"),
        sole_driver(f"{tmp_path}/file/run"),
    ):
        pass


def test_a_bucket_that_is_not_there_is_one_clear_error(monkeypatch):
    filesystem, _ = fsspec.core.url_to_fs("memory://nowhere")

    def find(*_, **__):
        raise FileNotFoundError("The specified bucket does not exist")

    monkeypatch.setattr(filesystem, "find", find)
    with pytest.raises(DataError, match="memory://nowhere: nothing is there; check the path"):
        local_copy("memory://nowhere")
