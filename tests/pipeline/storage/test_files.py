"""What is written is read, on any store, and a store that there is not is explained."""

from __future__ import annotations

import pytest

from pipeline.base.errors import ConfigError
from pipeline.storage.files import describe, is_file, is_folder, is_local, read_bytes
from pipeline.storage.publish import write_bytes


@pytest.mark.parametrize("place", ["{tmp}/a/b", "memory://a/b"])
def test_what_is_written_is_read(place, tmp_path, memory):
    url = place.format(tmp=tmp_path)
    write_bytes(f"{url}/x", b"1")
    write_bytes(f"{url}/x", b"22")
    assert read_bytes(f"{url}/x") == b"22"
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{url}/y")


def test_an_unknown_store_is_explained():
    with pytest.raises(ConfigError, match="nosuch://.*install s3fs"):
        read_bytes("nosuch://a/b")


@pytest.mark.parametrize("place", ["{tmp}/a", "memory://a"])
def test_files_and_folders_are_told_apart(place, tmp_path, memory):
    url = place.format(tmp=tmp_path)
    write_bytes(f"{url}/x", b"1")
    assert is_file(f"{url}/x") and not is_folder(f"{url}/x")
    assert is_folder(url) and not is_file(url)
    assert not is_file(f"{url}/y") and not is_folder(f"{url}/y")
    assert is_local(url) == (not url.startswith("memory"))


def test_an_error_is_described_in_one_short_line():
    assert describe(OSError(28, "No space left on device")) == "No space left on device"
    assert describe(ValueError("a\n  b")) == "a b" and describe(KeyError()) == "KeyError"
    assert len(describe(ValueError("a " * 1000))) == 300
