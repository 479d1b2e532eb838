"""A row becomes a picture and a mask that fit each other, or one sentence says why not."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.base.errors import DataError
from pipeline.tables.pairs import decode_pairs
from tests.tiny import save_pairs


def test_pictures_of_several_sizes_are_refused(tmp_path):
    folders = [save_pairs(tmp_path / str(size), 2, size_px=size, num_shards=1) for size in (32, 48)]
    one, other = (pq.read_table(folder / "shards", columns=["image"])["image"].to_pylist() for folder in folders)
    with pytest.raises(DataError, match="pictures of one size"):
        decode_pairs({"image": np.array([one[0], other[0]], object)})
