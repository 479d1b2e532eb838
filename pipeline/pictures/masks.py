"""What a mask holds: areas of classes, values that are none, pixels of which a model was unsure."""

from __future__ import annotations

import numpy as np
from PIL import Image

from models.labels import LabelSpace
from pipeline.base.errors import DataError, MaskError


def ignore_uncertain(mask: np.ndarray, confidence: np.ndarray, ignore_below: float, ignore_index: int) -> np.ndarray:
    """`mask` with `ignore_index` wherever the confidence is below `ignore_below`.

    Args:
        mask: (H, W) uint8 or uint16 class ids; left as it is.
        confidence: (H, W) uint8, top class probability times 255, as in PAIR.
        ignore_below: probability from 0 to 1; 0 changes nothing.
        ignore_index: of the mask's label space.

    Returns:
        (H, W), of the mask's type where `ignore_index` fits it, else uint16.

    Raises:
        DataError: the two are not of one size.
    """
    if confidence.shape != mask.shape:
        raise DataError(
            f"a confidence map of {confidence.shape} (height, width) does not fit a mask of {mask.shape}; make the "
            "pair again"
        )
    ids = mask.astype(np.promote_types(mask.dtype, np.min_scalar_type(ignore_index)))
    ids[confidence < ignore_below * 255] = ignore_index
    return ids


def class_areas(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of `mask`, (H, W) uint8 or uint16, ascending, and the pixels of each: (N,) int32 and (N,) int64."""
    if mask.dtype == np.uint8:  # several times as fast as sorting or counting in numpy
        areas = np.array(Image.fromarray(mask).histogram(), np.int64)
    else:
        areas = np.bincount(mask.reshape(-1))
    values = np.flatnonzero(areas)
    return values.astype(np.int32), areas[values]


def check_mask(mask: np.ndarray, labels: LabelSpace, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Checks that `mask`, (H, W) unsigned integers, holds nothing but class ids of `labels` and its `ignore_index`;
    returns its `class_areas`.

    Raises:
        MaskError: lists the other values.
    """
    values, areas = class_areas(mask)
    wrong = values[(values > labels.num_classes) & (values != labels.ignore_index)]
    if wrong.size:
        listed = ", ".join(map(str, wrong[:10])) + (", ..." if wrong.size > 10 else "")
        raise MaskError(
            f"{where}: the mask holds {listed}; label space {labels.name!r} has class ids 0 to {labels.num_classes} "
            f"and ignore_index {labels.ignore_index}. Map the values to these, or choose the label space they belong to"
        )
    return values, areas
