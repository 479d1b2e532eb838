"""What is written is read, on any store, and a store that there is not is explained."""

from __future__ import annotations

import pytest

from pipeline.base.errors import ConfigError
from pipeline.storage.files import read_bytes
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
