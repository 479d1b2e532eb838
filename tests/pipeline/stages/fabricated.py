"""Rows with and without captions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables.conform import conform
from pipeline.tables.ids import real_pair_id
from pipeline.tables.schema import PAIR


def rows_of(prompts: list[str | None], captions: list[list[str] | None], broken: int = -1) -> pa.Table:
    """PAIR rows with pictures of their own; that of `broken` is none."""
    num = len(prompts)
    images = [encode_image(np.full((8, 8, 3), 20 * row, np.uint8)) for row in range(num)]
    values = {
        "pair_id": [real_pair_id("set", str(row)) for row in range(num)],
        "prompt": pa.array(prompts, pa.string()),
        "captions": pa.array(captions, pa.list_(pa.string())),
        "image": [b"no picture" if row == broken else image for row, image in enumerate(images)],
        "mask": [encode_mask(np.full((8, 8), row % 3, np.uint8)) for row in range(num)],
        "height": [8] * num,
        "width": [8] * num,
        "class_ids": [[row % 3] for row in range(num)],
        "class_pixels": [[64]] * num,
        "origin": ["real"] * num,
        "key": [str(row) for row in range(num)],
    }
    return conform(pa.table(values), PAIR)
