"""pack_pairs: arrays -> encoded bytes and statistics. Behind it a pair is small, and no picture travels as an array."""

from __future__ import annotations

import numpy as np

from pipeline.pictures.codec import ImageFormat, encode_image, encode_mask
from pipeline.pictures.masks import class_areas
from pipeline.stages.refine import refine_masks
from pipeline.tables.conform import object_column
from pipeline.tables.schema import Batch


def pack_pairs(batch: Batch, *, image_format: ImageFormat = "png", keep_confidence: bool = False) -> Batch:
    """Stage: encodes `image` (B, H, W, 3) uint8 and `mask` (B, H, W), and counts classes.

    Adds `height`, `width`, `class_ids` and `class_pixels`; `confidence` (B, H, W) uint8 becomes a PNG if it is to be
    kept and goes otherwise. Rows with an `error` get empty bytes. Other columns pass on.
    """
    image, mask = batch["image"], batch["mask"]
    failed = batch["error"] != "" if "error" in batch else np.zeros(len(image), bool)
    counted = [class_areas(one) for one in mask]
    packed = {name: values for name, values in batch.items() if name not in ("image", "mask", "confidence")}
    packed["image"] = object_column(
        b"" if bad else encode_image(one, image_format) for one, bad in zip(image, failed, strict=True)
    )
    packed["mask"] = object_column(b"" if bad else encode_mask(one) for one, bad in zip(mask, failed, strict=True))
    if keep_confidence:
        packed["confidence"] = object_column(
            b"" if bad else encode_mask(one) for one, bad in zip(batch["confidence"], failed, strict=True)
        )
    packed["height"] = np.full(len(image), image.shape[1], np.int32)
    packed["width"] = np.full(len(image), image.shape[2], np.int32)
    packed["class_ids"] = object_column(ids for ids, _ in counted)
    packed["class_pixels"] = object_column(pixels for _, pixels in counted)
    return packed


def refine_and_pack(
    batch: Batch,
    *,
    refine: dict[str, int],
    ignore_index: int,
    image_format: ImageFormat,
    keep_confidence: bool,
    origin: dict[str, str],
) -> Batch:
    """Stage: both CPU steps in one task, so that raw pictures cross the object store once.

    Args:
        batch: what SamplePairs gives.
        refine: `min_area_px` and `fill_holes_px` of `refine_masks`.
        ignore_index, image_format, keep_confidence: as of the two steps.
        origin: constant columns to add.
    """
    refined = refine_masks(batch, ignore_index=ignore_index, **refine)
    packed = pack_pairs(refined, image_format=image_format, keep_confidence=keep_confidence)
    return {**packed, **{name: np.full(len(batch["prompt"]), value, object) for name, value in origin.items()}}
