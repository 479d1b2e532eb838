"""Rows as the pack stage makes them, written as runs hold them, and ways to damage them."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.labels import GARMENTS
from pipeline.cluster.sink import ShardSink
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables import shards
from pipeline.tables.ids import pair_id
from pipeline.tables.label_space import LABELS

IDS = [pair_id("prompt", seed, "bundle", "{}") for seed in range(1000)]
NUMBERED = [f"{row:032x}" for row in range(100)]
"""Ids in ascending order."""


def packed(ids: list[str], **columns: Any) -> pa.Table:
    """Rows as the pack stage makes them."""
    count = len(ids)
    image, mask = encode_image(np.full((4, 6, 3), 200, np.uint8)), encode_mask(np.eye(4, 6, dtype=np.uint8))
    common = {
        "pair_id": ids,
        "prompt": ["prompt"] * count,
        "seed": list(range(count)),
        "image": [image] * count,
        "mask": [mask] * count,
        "height": [4] * count,
        "width": [6] * count,
        "class_ids": [[0, 1]] * count,
        "class_pixels": [[20, 4]] * count,
        "origin": ["synthetic"] * count,
        "bundle": ["bundle"] * count,
        "sampler": ["{}"] * count,
        "error": [""] * count,
    }
    return pa.table({**common, **columns})


def sink(folder: Path | str, rows_per_shard: int = 100) -> ShardSink:
    return ShardSink(str(folder), rows_per_shard)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def break_write(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Writing a table puts half of it into the file, then raises `error`."""
    whole = pq.write_table

    def half(table: pa.Table, file: IO[bytes], **options: Any) -> None:
        whole(table.slice(0, table.num_rows // 2), file, **options)
        raise error

    monkeypatch.setattr(shards.pq, "write_table", half)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def overwrite_middle(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) - 3000) + content[-2996:])


def write_run(folder: Path, ids: list[str], **columns: Any) -> list[str]:
    """Writes sound rows, but for `columns`, and the label space; returns the names of the shards."""
    count = len(ids)
    GARMENTS.save(folder / LABELS)
    rows = {
        "pair_id": ids,
        "image": [encode_image(np.zeros((4, 6, 3), np.uint8))] * count,
        "mask": [encode_mask(np.eye(4, 6, dtype=np.uint8))] * count,
        "height": [4] * count,
        "width": [6] * count,
        "class_ids": [[0, 1]] * count,
        "class_pixels": [[20, 4]] * count,
        "origin": ["synthetic"] * count,
        "bundle": ["bundle"] * count,
        "sampler": ['{"steps":20}'] * count,
        "error": [""] * count,
    }
    return ShardSink(str(folder), 10).write([pa.table({**rows, **columns})], None)
