"""Pairs: the inverse of packing. What a row of PAIR holds, as arrays that were checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from models.labels import LabelSpace
from pipeline.base.errors import DataError, MaskError
from pipeline.pictures.codec import decode_image, decode_mask
from pipeline.pictures.masks import check_mask, class_areas
from pipeline.pictures.squares import centre, require_one_size, seen, seen_mask
from pipeline.tables.schema import Batch


class Unpacked(NamedTuple):
    """A pair as arrays.

    Attributes:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8 or uint16 class ids.
        class_ids, class_pixels: (N,) int32 and (N,) int64, the ids in the mask, ascending, and their areas.
    """

    image: np.ndarray
    mask: np.ndarray
    class_ids: np.ndarray
    class_pixels: np.ndarray


def unpack_pair(row: Mapping[str, Any], labels: LabelSpace | None, where: str) -> Unpacked:
    """The picture and the mask of a row of PAIR.

    Args:
        row: at least the columns `image` and `mask`.
        labels: what the mask may hold; None does not look.
        where: what messages call the row, such as a file and an id.

    Raises:
        DataError: a picture that is missing or cannot be decoded, or a picture without a mask.
        MaskError: sizes that differ, or values that are no class ids of `labels`.
    """
    image = decode_image(encoded(row, "image"), f"{where}, image")
    if not has_mask(row):
        raise DataError(f"{where}, mask: there is none, but one is needed here; label the picture, or leave it out")
    mask = decode_mask(encoded(row, "mask"), f"{where}, mask")
    require_size(mask, image, f"{where}, mask")
    areas = check_mask(mask, labels, f"{where}, mask") if labels else class_areas(mask)
    return Unpacked(image, mask, *areas)


def unpack_confidence(row: Mapping[str, Any], image: np.ndarray, where: str) -> np.ndarray:
    """The confidence map of a row of PAIR, (H, W) uint8, top class probability times 255; as large as its `image`.

    Raises:
        DataError, MaskError: as `unpack_pair`; and where the row has none.
    """
    found = encoded(row, "confidence")
    if not found:
        raise DataError(
            f"{where}: has no confidence map, which ignore_below needs; generate the set with --keep-confidence True, "
            "or leave ignore_below out"
        )
    confidence = decode_mask(found, f"{where}, confidence")
    require_size(confidence, image, f"{where}, confidence")
    return confidence


def has_mask(row: Mapping[str, Any]) -> bool:
    """Whether anybody has labelled the picture of a row of PAIR."""
    return bool(encoded(row, "mask"))


def encoded(row: Mapping[str, Any], name: str) -> bytes:
    """The bytes of a picture in a row; none where the column or the picture is not there."""
    cell = row.get(name)
    return (cell if isinstance(cell, bytes) else (cell or {}).get("bytes")) or b""


def require_size(mask: np.ndarray, image: np.ndarray, where: str) -> None:
    """Raises MaskError where a mask (H, W) is not as large as its image (H, W, 3)."""
    if mask.shape != image.shape[:2]:
        raise MaskError(
            f"{where}: {mask.shape[0]} x {mask.shape[1]} pixels (height x width), but its image has {image.shape[0]} "
            f"x {image.shape[1]}; make or ingest the pair again"
        )


def decode_pairs(batch: Batch, size_px: int = 0) -> Batch:
    """Stage: `image` and `mask` as PAIR holds them -> (B, H, W, 3) uint8 and (B, H, W); other columns are dropped.

    With `size_px`, the middle of each at that size; without, all must be of one size.
    """
    decoded: Batch = {}
    where = batch.get("pair_id", np.arange(len(next(iter(batch.values())))))
    for name, decode, look in (("image", decode_image, seen), ("mask", decode_mask, seen_mask)):
        if name in batch:
            arrays = [
                decode(encoded({name: cell}, name), f"pair {key}, {name}")
                for cell, key in zip(batch[name], where, strict=True)
            ]
            if size_px:
                arrays = [look(array, centre(*array.shape[:2]), size_px) for array in arrays]
            require_one_size({array.shape[:2] for array in arrays})
            decoded[name] = np.stack(arrays)
    return decoded
