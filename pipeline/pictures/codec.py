"""Pictures and masks to encoded bytes and back. A mask is always a PNG, so that no class id is ever changed by it."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.base.errors import DataError, MaskError

ImageFormat = Literal["png", "webp", "jpeg"]

# Speed over size for the lossless formats: encoding runs in the sampler's shadow, and a higher level of PNG or WebP
# costs several times the time for a few per cent of the bytes. 4:4:4 keeps JPEG colours sharp at the edges of objects.
_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "png": {"compress_level": 1},
    "webp": {"lossless": True, "quality": 0, "method": 0},
    "jpeg": {"quality": 95, "subsampling": 0},
}


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
