"""Pairs as a page shows them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from models.labels import LabelSpace
from pipeline.pictures.codec import decode_image
from pipeline.tables.pairs import encoded, has_mask, unpack_pair
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import MADE, list_shards, map_shards, open_shard

COLUMNS = ["pair_id", "prompt", "image", "mask", "origin"]
MAX_SHOWN_PX = 384  # three times the width of a picture on the page: sharp on dense screens, and the file stays small
MAX_CRISP_PX = 192  # pictures below it are scaled up on the page; PNG and hard pixels, because smoothing would lie


def evenly(folder: str, num_shown: int) -> pa.Table:
    """Rows of `num_shown` pairs, evenly from all by id.

    Raises:
        ShardError: no shards, or a broken one.
    """
    ids = pc.unique(read_shards([folder], ["pair_id"])["pair_id"]).sort()
    places = np.linspace(0, len(ids) - 1, min(num_shown, len(ids))).round().astype(np.int64)
    return rows_of(folder, ids.take(pa.array(places)))


def rows_of(folder: str, chosen: pa.Array) -> pa.Table:
    """The rows of some pairs in the order of these ids; of those that are not there, none. Of the pictures only those
    row groups that hold them are read.

    Raises:
        ShardError: a broken shard.
    """

    def read(path: str) -> list[pa.Table]:
        found = []
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                here = pc.is_in(file.read_row_group(group, ["pair_id"], use_threads=False)["pair_id"], chosen)
                if pc.any(here).as_py():
                    found.append(file.read_row_group(group, COLUMNS, use_threads=False).select(COLUMNS).filter(here))
        return found

    tables = [table for tables in map_shards(read, list_shards(folder, MADE)) for table in tables]
    if not tables:
        return pa.table({name: pa.nulls(0) for name in COLUMNS})
    rows = pa.concat_tables(tables)
    return rows.take(pc.index_in(chosen, rows["pair_id"].combine_chunks()).drop_null())


def picture_row(row: dict[str, Any], labels: LabelSpace, where: str) -> dict[str, Any]:
    """What the template shows of one pair.

    Raises:
        DataError: a picture that cannot be decoded, sizes that differ, or ids that are no classes.
    """
    if has_mask(row):
        image, mask, class_ids, _ = unpack_pair(row, labels, where)
        colours = labels.colours(mask)
        # The background stays as it is: half black over it would only hide what the mask may have missed.
        overlay = np.where((mask > 0)[..., None], (image.astype(np.uint16) + colours) // 2, image).astype(np.uint8)
        masks = [("mask", data_uri(colours, exact=True)), ("overlay", data_uri(overlay))]
        present = [class_id for class_id in class_ids.tolist() if 0 < class_id <= labels.num_classes]
    else:
        image, masks, present = decode_image(encoded(row, "image"), f"{where}, image"), [], []
    height, width = image.shape[:2]
    return {
        "id": row["pair_id"],
        "prompt": row["prompt"] or "",
        "crisp": max(height, width) <= MAX_CRISP_PX,
        "height": height,
        "width": width,
        "pictures": [("image", data_uri(image)), *masks],
        "chips": [(labels.classes[class_id], labels.palette[class_id]) for class_id in present],
    }


def data_uri(pixels: np.ndarray, exact: bool = False) -> str:
    """(H, W, 3) uint8 as a data URI; large ones are scaled down, and become JPEG unless colours must stay `exact`."""
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    exact = exact or max(picture.size) <= MAX_CRISP_PX
    picture.thumbnail((MAX_SHOWN_PX, MAX_SHOWN_PX), Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS)
    if exact:
        picture.save(buffer, "png")
    else:
        picture.save(buffer, "jpeg", quality=88)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
