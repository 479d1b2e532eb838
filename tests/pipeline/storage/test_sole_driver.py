"""One process at a time drives a run, on a disk and on a store."""

from __future__ import annotations

import json
import resource
import signal
import threading
import time

import pytest

from pipeline.base.errors import ConfigError, ShardError
from pipeline.storage.files import read_bytes
from pipeline.storage.publish import write_bytes
from pipeline.storage.sole_driver import sole_driver


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("pipeline.storage.sole_driver.LEASE_RENEWAL_S", 0.02)
    monkeypatch.setattr("pipeline.storage.sole_driver.LEASE_PATIENCE_S", 0.2)


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
