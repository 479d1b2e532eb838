"""Pictures and masks to encoded bytes and back. A mask is always a PNG, so that no class id is ever changed by it."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from models.labels import LabelSpace
from pipeline.base.errors import DataError, MaskError

ImageFormat = Literal["png", "webp", "jpeg"]

# Speed over size for the lossless formats: encoding runs in the sampler's shadow, and a higher level of PNG or WebP
# costs several times the time for a few per cent of the bytes. 4:4:4 keeps JPEG colours sharp at the edges of objects.
_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "png": {"compress_level": 1},
    "webp": {"lossless": True, "quality": 0, "method": 0},
    "jpeg": {"quality": 95, "subsampling": 0},
}


# Eight bits a channel, three of them, and the right way up: what every reader of a pair shows alike.
_KEPT_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP"})
_TOO_DEEP = frozenset({"I", "I;16", "I;16B", "I;16L", "F"})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture with this EXIF orientation is turned upright."""
_QUARTERS = frozenset(
    {Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270}
)
_PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has: Pillow reads 16 of them as 8 where there are three channels."""
_LONGEST_WEBP_PX = 16_383


@dataclass(frozen=True)
class Photograph:
    """A picture from a camera, upright and RGB.

    Attributes:
        encoded: the bytes as they were given where those are so already, else lossless WebP.
        height, width: upright.
        turn: how it was turned; None where it stands as it was stored.
    """

    encoded: bytes
    height: int
    width: int
    turn: Image.Transpose | None = None

    def turned(self, mask: np.ndarray, as_stored: bool = False) -> np.ndarray:
        """`mask`, (H, W), as it lies on the upright picture.

        Args:
            mask: a mask that only fits the picture as stored is turned with it. One that fits both was drawn on what
                viewers and trainers show, the upright picture, and stays.
            as_stored: it was drawn on the picture as stored, also where it fits both.
        """
        if self.turn is None:
            return mask
        fits = mask.shape == (self.height, self.width)
        sideways = mask.shape == (self.width, self.height)
        is_quarter = self.turn in _QUARTERS
        if (sideways and is_quarter and (as_stored or not fits)) or (fits and not is_quarter and as_stored):
            return np.array(Image.fromarray(mask).transpose(self.turn))
        return mask


def read_photograph(encoded: bytes, where: str) -> Photograph:
    """Reads a picture of a real data set: grey, palette and CMYK pictures become RGB, rotated ones (EXIF) upright.

    Raises:
        DataError: undecodable, cut short, or of more than 8 bits a channel; `where` is named.
    """
    picture = _open(encoded, where)
    if picture.mode in _TOO_DEEP or (picture.format == "PNG" and encoded[_PNG_DEPTH] > 8):
        raise DataError(
            f"{where}: a picture of mode {picture.mode} with more than 8 bits a channel; scale it to 8 bits first"
        )
    turn = _TURNS.get(_orientation(picture))
    if picture.mode == "RGB" and picture.format in _KEPT_FORMATS and turn is None:
        return Photograph(encoded, picture.height, picture.width)
    upright = picture.convert("RGB") if turn is None else picture.convert("RGB").transpose(turn)
    format = "webp" if max(upright.size) <= _LONGEST_WEBP_PX else "png"
    return Photograph(_save(upright, format), upright.height, upright.width, turn)


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, OSError, struct.error):  # damaged EXIF says nothing of the picture
        return 1


def encode_image(image: np.ndarray, format: ImageFormat = "png") -> bytes:
    """Encodes `image`, (H, W, 3) uint8. PNG and WebP are lossless, JPEG is quality 95 in 4:4:4.

    Raises:
        ValueError: another shape, dtype or format.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if format not in _SAVE_OPTIONS:
        raise ValueError(f"image format {format!r} is not one of {', '.join(_SAVE_OPTIONS)}")
    return _save(Image.fromarray(image), format)


def encode_mask(mask: np.ndarray) -> bytes:
    """Encodes `mask`, (H, W) uint8 or uint16 class ids, as a greyscale PNG of 8 or 16 bits.

    Raises:
        ValueError: another shape or dtype.
    """
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"a mask is (H, W) uint8 or uint16, got {mask.shape} {mask.dtype}")
    return _save(Image.fromarray(mask), "png")


def decode_image(encoded: bytes, where: str) -> np.ndarray:
    """Decodes any picture that Pillow reads to (H, W, 3) uint8; transparency is dropped.

    Raises:
        DataError: undecodable or cut short; `where` (a file, a row) is named.
    """
    return np.array(_open(encoded, where).convert("RGB"))


def decode_mask(encoded: bytes, where: str) -> np.ndarray:
    """Decodes a mask to (H, W) uint8, or uint16 where the file has 16 bits. A palette picture is read as its indices.

    Raises:
        DataError: undecodable or cut short; `where` is named.
        MaskError: colours where class ids should be, or a lossy format, which changes ids along every edge.
    """
    picture = _open(encoded, where)
    if picture.format in ("JPEG", "MPO") or (picture.format == "WEBP" and b"VP8L" not in encoded[:4096]):
        raise MaskError(
            f"{where}: a mask holds class ids, but {picture.format} is lossy and has changed some; take the PNG that "
            "it was made from"
        )
    if picture.mode in ("L", "P"):
        return np.array(picture)
    if picture.mode == "1":
        return np.array(picture, np.uint8)
    if picture.mode in ("I", "I;16", "I;16B", "I;16L"):
        ids = np.array(picture, np.int64)
        if ids.min() >= 0 and ids.max() <= np.iinfo(np.uint16).max:
            return ids.astype(np.uint16)
    raise MaskError(
        f"{where}: a mask holds one class id per pixel, but this picture has mode {picture.mode}; save the ids "
        "themselves as a greyscale or palette PNG (colours must be mapped back to ids first)"
    )


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


def _save(picture: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **_SAVE_OPTIONS[format])
    return buffer.getvalue()


def _open(encoded: bytes, where: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(encoded))
        picture.load()
    # Pillow reports broken files by all of these; SyntaxError is its word for a broken PNG chunk.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{where}: not a picture that can be decoded, {len(encoded)} bytes ({reason}); replace it or leave it out"
        ) from error
    return picture
