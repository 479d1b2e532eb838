"""The pictures of a gallery: small ones in sheets, with their masks beside them, and some as they are.

A part is some rows of one shard. Its folder is named by what is in it, so that it is made once, however often the
gallery around it is made anew. Of its pairs, each SHEET stand in one picture, `<number>.webp`, of cells in rows of
COLUMNS, each at the upper left of its cell; `<number>.js` holds their sizes and masks. `large-<number>.js` holds each
LARGE of them as they are in the shard.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.pages.gallery_files import packed, script, write_content
from pipeline.pictures.codec import decode_image, decode_mask
from pipeline.storage.files import read_bytes
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import text_digest
from pipeline.tables.pairs import encoded, has_mask, require_size
from pipeline.tables.shards import open_shard

SHEET, COLUMNS, LARGE = 64, 8, 16
ROWS_PER_PART = 4096
VERSION = 1
"""Of what is in a part; another one makes all of them anew."""
PICTURES, RECORD = "pictures", "part.json"
QUALITY = 80
Cell = tuple[Image.Image, np.ndarray | None]
"""A picture, and its mask (H, W), if it has one; both as small as they are shown."""


class Sizes(NamedTuple):
    """How large pictures are kept: their longer sides in pixels, small ones and large ones."""

    tile_px: int
    large_px: int


@dataclass(frozen=True)
class Part:
    """Some rows of a shard.

    Attributes:
        shard: its path, `shard_bytes` its size.
        places: (N,) int64 rows there, ascending.
        large: (N,) bool, which of them are kept large as well.
        first: number in the gallery of the first of them.
        content: a digest of what is known of their pictures and masks.
    """

    shard: str
    shard_bytes: int
    places: np.ndarray
    large: np.ndarray
    first: int
    content: str

    def name(self, sizes: Sizes) -> str:
        """What is in it, as 16 hex digits."""
        shard = [self.shard.rpartition("/")[2], self.shard_bytes, self.content]
        return text_digest([VERSION, *shard, *sizes, self.places.tolist(), np.flatnonzero(self.large).tolist()])


def make_part(part: Part, folder: str, sizes: Sizes, labels: LabelSpace) -> tuple[int, int]:
    """Writes a part into `<folder>/pictures/<name>`, its record last; returns how many pairs it has and bytes it takes.

    A pair that cannot be shown is named in the record, and its cell is empty.

    Raises:
        ShardError: the shard is broken, or a file cannot be written.
    """
    into = f"{PICTURES}/{part.name(sizes)}"
    size, damaged = 0, {}
    rows = _rows(part)
    for number in range(-(-len(part.places) // SHEET)):
        cells: list[Cell | None] = []
        kept: dict[int, dict[str, Any]] = {}
        for place in range(number * SHEET, min((number + 1) * SHEET, len(part.places))):
            row = next(rows)
            try:
                cells.append(_cell(row, sizes.tile_px, labels))
            except DataError as error:
                cells.append(None)
                damaged[row["pair_id"]] = str(error)
            else:
                if part.large[place]:
                    kept[place] = row
        picture, content = sheet(cells, labels, [place in kept for place in range(number * SHEET, place + 1)])
        write_bytes(f"{folder}/{into}/{number}.webp", picture)
        size += len(picture) + write_content(folder, f"{into}/{number}", content)
        for first in range(number * SHEET, (number + 1) * SHEET, LARGE):
            if some := {one: kept[one] for one in range(first, first + LARGE) if one in kept}:
                content = large(some, sizes.large_px, labels)
                size += write_content(folder, f"{into}/large-{first // LARGE}", content, level=1)
    record = {"pairs": len(part.places), "bytes": size, "damaged": damaged}
    write_bytes(f"{folder}/{into}/{RECORD}", json.dumps(record, indent=1).encode())
    return len(part.places), size


def bytes_of_pair(part: Part, sizes: Sizes, labels: LabelSpace) -> tuple[float, float]:
    """What a pair of a part takes, by its first ones: small, and large beside that. Damaged ones take nothing."""
    rows = {}
    cells: list[Cell | None] = []
    for place, row in zip(range(min(SHEET, len(part.places))), _rows(part), strict=False):
        try:
            cells.append(_cell(row, sizes.tile_px, labels))
        except DataError:
            cells.append(None)
        else:
            rows[place] = row
    some = dict(islice(rows.items(), LARGE))
    picture, content = sheet(cells, labels, [False] * len(cells))
    small = len(picture) + len(script("", content))
    return small / max(1, len(cells)), len(script("", large(some, sizes.large_px, labels), 1)) / max(1, len(some))


def read_record(folder: str) -> dict[str, Any] | None:
    """`pairs`, `bytes` and `damaged` of a part that is made; None where it is not."""
    try:
        return dict(json.loads(read_bytes(f"{folder}/{RECORD}")))
    except FileNotFoundError:
        return None


def sheet(cells: Sequence[Cell | None], labels: LabelSpace, is_large: Sequence[bool]) -> tuple[bytes, bytes]:
    """The picture of some cells (WebP), and what its script holds: `cell` (pixels), `bits` of a mask's value, and
    `sizes`, [width, height, whether it has a mask, whether it is kept large] each; then the masks, little-endian."""
    size = max((max(one[0].size) for one in cells if one), default=1)
    made = Image.new("RGB", (COLUMNS * size, -(-len(cells) // COLUMNS) * size))
    sizes, masks = [], []
    for number, one in enumerate(cells):
        if one is None:
            sizes.append([0, 0, 0, 0])
            continue
        picture, mask = one
        made.paste(picture, (number % COLUMNS * size, number // COLUMNS * size))
        sizes.append([*picture.size, int(mask is not None), int(is_large[number])])
        if mask is not None:
            masks.append(_ids(mask, labels))
    buffer = io.BytesIO()
    made.save(buffer, "webp", quality=QUALITY, method=2)
    return buffer.getvalue(), packed({"cell": size, "bits": _bits(labels), "sizes": sizes}, masks)


def large(rows: dict[int, dict[str, Any]], large_px: int, labels: LabelSpace) -> bytes:
    """What the script of large pairs holds: for each place `type`, `bytes` of its picture, `width` and `height` of its
    mask (0 where it has none); then for each the picture and the mask."""
    header: dict[str, Any] = {"bits": _bits(labels), "pairs": {}}
    blobs: list[bytes] = []
    for place, row in rows.items():
        picture, kind = _picture(encoded(row, "image"), large_px, f"pair {row['pair_id']}, image")
        mask = _mask(row, labels) if has_mask(row) else None
        if mask is not None:
            mask = _nearest(mask, _fit((mask.shape[1], mask.shape[0]), large_px))
        height, width = mask.shape if mask is not None else (0, 0)
        header["pairs"][place] = {"type": kind, "bytes": len(picture), "width": width, "height": height}
        blobs += [picture, b"" if mask is None else _ids(mask, labels)]
    return packed(header, blobs)


def _rows(part: Part) -> Iterator[dict[str, Any]]:
    """The rows of a part, one row group in memory."""
    with open_shard(part.shard) as file:
        present = [name for name in ("pair_id", "image", "mask") if name in file.schema_arrow.names]
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            here = part.places[(part.places >= start) & (part.places < stop)] - start
            if len(here):
                rows = file.read_row_group(group, present, use_threads=False).take(pa.array(here))
                for place in range(rows.num_rows):
                    yield rows.slice(place, 1).to_pylist()[0]
            start = stop


def _cell(row: dict[str, Any], tile_px: int, labels: LabelSpace) -> Cell:
    image = decode_image(encoded(row, "image"), f"pair {row['pair_id']}, image")
    picture = Image.fromarray(image)
    size = _fit(picture.size, tile_px)
    mask = None
    if has_mask(row):
        mask = _mask(row, labels)
        require_size(mask, image, f"pair {row['pair_id']}, mask")
        mask = _nearest(mask, size)
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0), mask


def _mask(row: dict[str, Any], labels: LabelSpace) -> np.ndarray:
    """Ids of a row, as many bits each as all of its label space have."""
    mask = decode_mask(encoded(row, "mask"), f"pair {row['pair_id']}, mask").astype(np.uint16)
    return np.minimum(mask, np.iinfo(labels.dtype).max).astype(labels.dtype)


def _picture(content: bytes, large_px: int, where: str) -> tuple[bytes, str]:
    """A picture's bytes and MIME type, as they are where a browser shows them at that size."""
    with Image.open(io.BytesIO(content)) as picture:
        kind, size = picture.format, picture.size
    if kind in ("PNG", "WEBP", "JPEG") and max(size) <= large_px:
        return content, f"image/{kind.lower()}"
    buffer = io.BytesIO()
    made = Image.fromarray(decode_image(content, where))
    made.resize(_fit(size, large_px), Image.Resampling.LANCZOS).save(buffer, "webp", quality=92)
    return buffer.getvalue(), "image/webp"


def _fit(size: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) -> (height, width) of `size`, the value in the middle of each pixel."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size[::-1], mask.shape, strict=True)
    )
    return mask[rows[:, None], columns[None, :]]


def _bits(labels: LabelSpace) -> int:
    return 8 * np.dtype(labels.dtype).itemsize


def _ids(mask: np.ndarray, labels: LabelSpace) -> bytes:
    return mask.astype(np.dtype(labels.dtype).newbyteorder("<")).tobytes()
