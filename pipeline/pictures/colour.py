"""Colour: pictures with a profile of their own -> sRGB, which everything that shows or learns from pixels assumes."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

NEAR = 2
"""Profiles whose colours are within so many of 255 steps of sRGB's are sRGB: several are around, rounded otherwise."""
_MODES = {
    "RGB": ("RGB", frozenset({"RGB", "RGBA", "P", "PA", "L", "LA", "1"})),
    "GRAY": ("L", frozenset({"L", "LA", "1"})),
    "CMYK": ("CMYK", frozenset({"CMYK"})),
}
"""Colours that a profile is for -> the mode in which they are translated, and the modes of pictures that have them."""


class Translation(NamedTuple):
    """From the colours of a profile to sRGB.

    Attributes:
        mode: Pillow's, of what it takes.
        modes: of the pictures that it is for.
        apply: the work.
    """

    mode: str
    modes: frozenset[str]
    apply: ImageCms.ImageCmsTransform


def in_srgb(picture: Image.Image) -> Image.Image:
    """`picture` as RGB in sRGB by its colour profile; the picture itself where it has none, a broken one, one for other
    colours than its own, or sRGB's."""
    translation = _translation(picture.info.get("icc_profile") or b"")
    if translation is None or picture.mode not in translation.modes:
        return picture
    made = translation.apply.apply(picture.convert(translation.mode))
    made.info = {}  # or the old profile would be stored with the new colours
    return made


@lru_cache(64)
def _translation(profile: bytes) -> Translation | None:
    """None where nothing is to be done."""
    if not profile:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode, modes = _MODES[opened.profile.xcolor_space.strip()]
        made = ImageCms.buildTransform(
            opened, ImageCms.createProfile("sRGB"), mode, "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
        return None if mode != "CMYK" and _changes_nothing(made, mode) else Translation(mode, modes, made)
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError, TypeError):  # damaged, or for colours of other kinds
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    sample = Image.fromarray(grid).convert(mode)
    before, after = (np.asarray(one.convert("RGB"), np.int16) for one in (sample, transform.apply(sample)))
    return int(np.abs(before - after).max()) <= NEAR
