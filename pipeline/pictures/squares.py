"""Squares: the square parts of a pair that networks of one size are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from PIL import Image

from pipeline.base.errors import DataError


@dataclass(frozen=True)
class View:
    """A square of a picture: `side`, `top` and `left` in its pixels, which may be fractions."""

    top: float
    left: float
    side: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge, as Pillow has them."""
        return self.left, self.top, self.left + self.side, self.top + self.side


def centre(height: int, width: int) -> View:
    """The largest square in the middle (the paper's code: shorter side to 512, then the middle)."""
    side = min(height, width)
    return View((height - side) / 2, (width - side) / 2, side)


def somewhere(height: int, width: int, least: float, *, key: str) -> View:
    """A square drawn by `key`: its side between `least` and all of the shorter side, its place anywhere.

    Args:
        height, width: of the picture.
        least: share of the shorter side, above 0 and at most 1.
        key: the same one gives the same square.
    """
    rng = np.random.default_rng(int.from_bytes(blake2b(key.encode(), digest_size=8).digest()))
    side = min(height, width) * rng.uniform(least, 1.0)
    return View(rng.uniform(0, height - side), rng.uniform(0, width - side), side)


def seen(image: np.ndarray, view: View, size_px: int) -> np.ndarray:
    """The view of an image, (H, W, 3) uint8 -> (size_px, size_px, 3), bilinear (averaging where it shrinks)."""
    picture = Image.fromarray(image).resize((size_px, size_px), Image.Resampling.BILINEAR, box=view.box)
    return np.asarray(picture)


def seen_mask(mask: np.ndarray, view: View, size_px: int) -> np.ndarray:
    """The view of a mask, (H, W) uint8 or uint16 -> (size_px, size_px), nearest: no class is made up between two."""
    # Not Pillow's resize: it takes no box of 16-bit pictures, and the centres of pixels are as quickly found by hand.
    steps = (np.arange(size_px) + 0.5) * view.side / size_px
    rows, columns = (view.top + steps).astype(int), (view.left + steps).astype(int)
    return mask[np.minimum(rows, mask.shape[0] - 1)[:, None], np.minimum(columns, mask.shape[1] - 1)]


def require_one_size(sizes: set[tuple[int, ...]]) -> None:
    """Raises DataError where pictures of several sizes (height, width) would have to make one batch."""
    if len(sizes) > 1:
        raise DataError(
            f"pictures of one size are needed, but there are {sorted(sizes)[:5]} (height, width), perhaps more; set "
            "size_px, and the middle of each is taken at that size"
        )
