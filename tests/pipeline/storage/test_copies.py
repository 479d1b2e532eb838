"""What lies on a store is fetched once a machine, and again when it changes."""

from __future__ import annotations

import fsspec
import pytest

from pipeline.base.errors import DataError
from pipeline.storage.copies import local_copy, local_file
from pipeline.storage.publish import write_bytes


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


def test_a_bucket_that_is_not_there_is_one_clear_error(monkeypatch):
    filesystem, _ = fsspec.core.url_to_fs("memory://nowhere")

    def find(*_, **__):
        raise FileNotFoundError("The specified bucket does not exist")

    monkeypatch.setattr(filesystem, "find", find)
    with pytest.raises(DataError, match="memory://nowhere: nothing is there; check the path"):
        local_copy("memory://nowhere")


def test_a_file_of_a_store_is_fetched_once_and_again_when_it_changes(memory, tmp_path, monkeypatch):
    monkeypatch.setenv("JODIFFUSION_CACHE", str(tmp_path / "cache"))
    write_bytes("memory://runs/x", b"1")
    first = local_file("memory://runs/x")
    assert first.read_bytes() == b"1" and local_file("memory://runs/x") == first
    write_bytes("memory://runs/x", b"22")
    assert local_file("memory://runs/x").read_bytes() == b"22"
    assert local_file(str(tmp_path / "y")) == tmp_path / "y", "a file of this machine is itself"
    with pytest.raises(FileNotFoundError):
        local_file("memory://runs/nothing")
