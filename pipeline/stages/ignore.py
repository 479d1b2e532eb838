"""ignore_uncertain: pixels of which the model was unsure lose their class, so that a trainer skips them."""

from __future__ import annotations

import numpy as np

from pipeline.base.errors import DataError


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
