"""Files appear whole or not at all, on any store."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pipeline.base.errors import DataError, ShardError
from pipeline.storage.files import filesystem_of, read_bytes
from pipeline.storage.publish import publish, publish_file, upload, write_bytes


def test_a_store_that_fails_is_named(memory, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("AccessDenied when calling PutObject")

    monkeypatch.setattr(memory, "pipe_file", refuse)
    with pytest.raises(ShardError, match="cannot write memory://a/x: AccessDenied .* same command again"):
        write_bytes("memory://a/x", b"")
    monkeypatch.setattr(memory, "cat_file", refuse)
    with pytest.raises(DataError, match="cannot read memory://a/x: AccessDenied"):
        read_bytes("memory://a/x")


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("way", [publish, publish_file])
def test_a_write_that_fails_keeps_what_was_there_and_leaves_nothing_beside_it(way, tmp_path):
    path = tmp_path / "a" / "x"
    write_bytes(str(path), b"before")

    def half(target):
        if way is publish:
            target.write(b"half")
        else:
            Path(target).write_bytes(b"half")
        fail()

    with pytest.raises(ShardError, match=f"cannot write {path}: No space left on device; free space"):
        way(str(path), half)
    assert path.read_bytes() == b"before"
    assert [one.name for one in path.parent.iterdir()] == ["x"]


@pytest.mark.parametrize("place", ["{tmp}/a/x", "memory://a/x"])
def test_a_large_file_appears_when_it_is_whole(place, tmp_path, memory):
    url = place.format(tmp=tmp_path)
    filesystem, path = filesystem_of(url)

    def write(draft):
        Path(draft).write_bytes(b"whole")
        assert not filesystem.exists(path)

    publish_file(url, write)
    assert read_bytes(url) == b"whole"


@pytest.mark.parametrize("place", ["{tmp}/there", "memory://there"])
def test_an_uploaded_folder_takes_the_place_of_what_was_there(place, tmp_path, memory):
    target, source = place.format(tmp=tmp_path), tmp_path / "source"
    write_bytes(f"{target}/stale", b"0")
    write_bytes(f"{source}/part/x", b"1")
    write_bytes(f"{source}/y", b"2")
    upload(str(source), target)
    filesystem, path = filesystem_of(target)
    assert sorted(name.removeprefix(f"{path}/") for name in filesystem.find(path)) == ["part/x", "y"]
    assert (source / "y").exists()


def test_an_upload_that_fails_says_where(memory, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "put", fail)
    with pytest.raises(ShardError, match="cannot write memory://there: No space left"):
        upload(str(tmp_path), "memory://there")
