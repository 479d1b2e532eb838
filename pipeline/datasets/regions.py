"""Regions: what one object of COCO covers, as its annotation says it, never more than its picture is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image
from pycocotools import mask as rle

Overlap = Literal["file", "area"]
"""Which object is on top: the later one in the file, or the smaller one."""
MIN_NUMBERS = 6  # of a polygon: three corners
MAX_OUTLINE_PX = 2_000_000
"""Length of the outlines of one object, and how far from the picture a corner may be: drawing takes about 100 bytes a
pixel of outline, outside the picture too, and one wrong number would take all memory there is."""
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
"""Of a picture: more Pillow does not open."""


def size_of(height: Any, width: Any) -> tuple[int, int]:
    """Height and width as whole numbers; 64.0 is one, as pandas writes them.

    Raises:
        ValueError: something else, or too large for a picture.
    """
    sides = [int(side) for side in (height, width) if type(side) in (int, float) and 1 <= side <= MAX_PIXELS]
    if len(sides) < 2 or sides != [height, width] or math.prod(sides) > MAX_PIXELS:
        raise ValueError(f"its size is {width!r} x {height!r}, not whole numbers of pixels that a picture can have")
    return sides[0], sides[1]


def region(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Polygons, or run lengths (column by column, compressed or not) -> (H, W) bool.

    Raises:
        ValueError: neither; says what it is.
    """
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            raise ValueError(f"run lengths of {segmentation.get('size')}, picture of {[height, width]} (height, width)")
        runs = _run_lengths(segmentation.get("counts"))
        if runs.sum() != height * width:
            raise ValueError(f"run lengths of {runs.sum()} pixels, the picture has {height * width}")
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    if not isinstance(segmentation, list):
        raise ValueError(f"a {type(segmentation).__name__}")
    if sum(_outline_px(polygon) for polygon in segmentation) > MAX_OUTLINE_PX:
        raise ValueError(f"its outlines are longer than {MAX_OUTLINE_PX:,} pixels")
    return rle.decode(rle.merge(rle.frPyObjects(segmentation, height, width))).astype(bool)


def painted(objects: Sequence[tuple[int, np.ndarray]], size: tuple[int, int], overlap: Overlap) -> np.ndarray:
    """Values and regions, (H, W) bool, in the order of their file -> (H, W) uint16, 0 where none is."""
    mask = np.zeros(size, np.uint16)
    if overlap == "area":
        objects = sorted(objects, key=lambda one: -int(one[1].sum()))
    for value, where in objects:
        mask[where] = value
    return mask


def _outline_px(polygon: Any) -> float:
    """How long the outline of a polygon is, by the longer of its two directions."""
    numbers = np.array(polygon) if isinstance(polygon, list) and not any(map(_is_nested, polygon)) else np.array("")
    if numbers.dtype.kind not in "iuf" or len(numbers) % 2 or len(numbers) < MIN_NUMBERS:
        raise ValueError("a polygon is a flat list of an even number of numbers, six or more")
    corners = numbers.astype(float).reshape(-1, 2)
    if not (np.abs(corners) <= MAX_OUTLINE_PX).all():  # nor is NaN
        raise ValueError("a corner of a polygon is no finite number, or far outside the picture")
    return float(np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum())


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def _run_lengths(counts: Any) -> np.ndarray:
    """Run lengths as a list, or as the string that COCO's own tools pack them into -> (N,) int64."""
    if isinstance(counts, str):
        return _unpacked(counts)
    runs = np.array(counts if isinstance(counts, list) and not any(map(_is_nested, counts)) else "")
    if (
        runs.dtype.kind not in "iuf"
        or not np.isfinite(runs).all()
        or (runs < 0).any()
        or (runs != np.floor(runs)).any()
    ):
        raise ValueError("run lengths are whole numbers, 0 and above")
    if (runs > MAX_PIXELS).any():
        raise ValueError("a run is longer than any picture")
    return runs.astype(np.int64)


def _unpacked(counts: str) -> np.ndarray:
    """The string holds numbers of five bits a character, the lowest first, with a bit that says "more follows"; the
    last bit of a number is its sign, and from the third on each is the difference to the last but one."""
    characters = np.frombuffer(counts.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    if not len(characters) or characters.min() < 0 or characters.max() > 63 or characters[-1] & 32:
        raise ValueError("its string of run lengths is empty, cut, or none")
    last = np.flatnonzero(~characters & 32)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:
        raise ValueError("a run is longer than any picture")
    shifts = 5 * (np.arange(len(characters)) - np.repeat(first, lengths))
    numbers = np.add.reduceat((characters & 31) << shifts, first)
    numbers -= np.where(characters[last] & 16, 1 << 5 * lengths, 0)
    for start in (1, 2):
        numbers[start::2] = np.cumsum(numbers[start::2])
    if (numbers < 0).any():
        raise ValueError("its string of run lengths holds negative ones")
    return numbers
