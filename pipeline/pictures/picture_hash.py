"""A hash of a picture that few bits of change when the picture hardly does."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.fft import dctn

SIDE, KEPT = 32, 8
FLAT = 2.0
"""Standard deviation of grey values, of 255, below which a picture has no hash: its bits would be noise."""


def picture_hash(image: np.ndarray) -> int | None:
    """64 bits of the lowest frequencies of a picture, as a signed number; None for one that is flat.

    The signs of an 8 x 8 discrete cosine transform of the 32 x 32 grey picture against their median, as the usual
    perceptual hash ("pHash") has them.

    Args:
        image: (H, W, 3) uint8.
    """
    grey = np.asarray(Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    if grey.std() < FLAT:
        return None
    low = dctn(grey, type=2, norm="ortho")[:KEPT, :KEPT]
    bits = (low > np.median(low)).ravel()
    return int(np.packbits(bits).view(">i8")[0])
