"""Pairs that every task learns from."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.tiny import save_pairs


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    folder = save_pairs(tmp_path_factory.mktemp("pairs"), 24)
    table = pq.read_table(folder / "shards", columns=["image", "mask", "prompt"])
    return {name: np.array(table[name].to_pylist(), object) for name in table.column_names}
