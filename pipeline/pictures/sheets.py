"""Sheets: several pictures in one, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

TILE_PX = 192


def tile(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """An image above its mask, both (H, W, 3) uint8 -> (2 TILE_PX, TILE_PX, 3) uint8, scaled to fit, white around."""
    height, width = pixels.shape[:2]
    scale = TILE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smooth = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS  # enlarged pixels stay what they are
    made = np.full((2, TILE_PX, TILE_PX, 3), 255, np.uint8)
    top, left = (TILE_PX - size[1]) // 2, (TILE_PX - size[0]) // 2
    for place, picture, how in ((made[0], pixels, smooth), (made[1], colours, Image.Resampling.NEAREST)):
        place[top : top + size[1], left : left + size[0]] = Image.fromarray(picture).resize(size, how)
    return made.reshape(2 * TILE_PX, TILE_PX, 3)


def row_of_tiles(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles side by side, with a white gap between them."""
    gap = np.full((2 * TILE_PX, 4, 3), 255, np.uint8)
    return np.concatenate([piece for one in tiles for piece in (one, gap)][:-1], axis=1)


def sheet(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of (N, H, W, 3) uint8 pictures -> one picture, row under row."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
