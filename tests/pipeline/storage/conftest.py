"""A store in memory for every test of this room."""

from __future__ import annotations

import fsspec
import pytest


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    return filesystem
