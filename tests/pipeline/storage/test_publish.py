"""Files appear whole or not at all, on any store."""

from __future__ import annotations

import pytest

from pipeline.base.errors import DataError, ShardError
from pipeline.storage.files import read_bytes
from pipeline.storage.publish import write_bytes


def test_a_store_that_fails_is_named(memory, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("AccessDenied when calling PutObject")

    monkeypatch.setattr(memory, "pipe_file", refuse)
    with pytest.raises(ShardError, match="cannot write memory://a/x: AccessDenied .* same command again"):
        write_bytes("memory://a/x", b"")
    monkeypatch.setattr(memory, "cat_file", refuse)
    with pytest.raises(DataError, match="cannot read memory://a/x: AccessDenied"):
        read_bytes("memory://a/x")
