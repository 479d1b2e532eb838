"""Pictures and masks to encoded bytes and back. A mask is always a PNG, so that no class id is ever changed by it."""

from __future__ import annotations

import io
from typing import Any, Literal

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

BROKEN = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, Image.DecompressionBombError)
"""By these Pillow reports broken files; SyntaxError is its word for a chunk of a PNG, RuntimeError for an AVIF."""
_PNG_DEPTH = 24
"""Where a PNG says how many bits a sample has."""
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE = 254, 258
_REDUCED = 1
"""Tags of TIFF; of the first, the bit of a page that is a smaller copy of another one."""


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
    return np.array(_rgb(_open(encoded, where), where))


def decode_mask(encoded: bytes, where: str) -> np.ndarray:
    """Decodes a mask to (H, W) uint8, or uint16 where the file has 16 bits: the samples as they are in the file, also
    where those have fewer bits than eight. A palette picture is read as its indices.

    Raises:
        DataError: undecodable or cut short; `where` is named.
        MaskError: colours where class ids should be, a palette of greys that may be the ids, several pages, or a lossy
            format, which changes ids along every edge.
    """
    picture = open_mask(encoded, where)
    if picture.mode == "P":
        _refuse_grey_palette(picture, where)
        return np.array(picture)
    if picture.mode == "L":
        return _samples(np.array(picture), picture, encoded)
    if picture.mode == "1":
        return np.array(picture, np.uint8)
    if picture.mode in ("I", "I;16", "I;16B", "I;16L"):
        ids = _samples(np.array(picture, np.int64), picture, encoded)
        if ids.min() >= 0 and ids.max() <= np.iinfo(np.uint16).max:
            return ids.astype(np.uint16)
    raise MaskError(
        f"{where}: a mask holds one class id per pixel, but this picture has mode {picture.mode}; save the ids "
        "themselves as a greyscale or palette PNG (colours must be mapped back to ids first)"
    )


def open_mask(encoded: bytes, where: str) -> Image.Image:
    """A picture that may be a mask, whatever its pixels mean.

    Raises:
        DataError: undecodable or cut short; `where` is named.
        MaskError: several pages, or a lossy format, which changes values along every edge.
    """
    picture = _open(encoded, where)
    if lossy := _lossy_format(picture, encoded):
        raise MaskError(
            f"{where}: a mask holds class ids, but {lossy} is lossy and has changed some; take the PNG that it was "
            "made from"
        )
    if (pages := num_frames(picture, encoded)) > 1:
        raise MaskError(f"{where}: holds {pages} pages, and nothing says which is the mask; save that one alone")
    return picture


def num_frames(picture: Image.Image, encoded: bytes) -> int:
    """How many pages or frames a file holds, of which `picture` is the first; previews and gain maps of cameras, and
    smaller copies that geographic TIFFs hold of a page, are none."""
    if picture.format not in ("TIFF", "GIF"):
        return 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    try:
        again = Image.open(io.BytesIO(encoded))  # counting moves it on
        num = getattr(again, "n_frames", 1)
        return sum(_is_whole_page(again, page) for page in range(num)) if picture.format == "TIFF" and num > 1 else num
    except Exception:  # damaged behind the first one, which was read; Pillow trips over that in many ways
        return 1


def bits_of(picture: Any, encoded: bytes) -> int:
    """Bits of a sample in a PNG or TIFF, of which Pillow reads 16 as 8 in three channels; 8 for other formats."""
    if picture.format == "TIFF":
        return int(max(picture.tag_v2.get(_BITS_PER_SAMPLE, (1,))))
    return encoded[_PNG_DEPTH] if picture.format == "PNG" else 8


def _lossy_format(picture: Image.Image, encoded: bytes) -> str:
    """What changed the pixels; "" where nothing did."""
    if picture.format == "TIFF":
        return "JPEG (in a TIFF)" if picture.info.get("compression") in ("jpeg", "tiff_jpeg") else ""
    if picture.format == "WEBP":
        return "" if _is_lossless_webp(encoded) else "WEBP"
    # AVIF can be without loss, but hardly any is, and nothing in its file says so plainly.
    return picture.format if picture.format in ("AVIF", "JPEG", "MPO") else ""


def _is_lossless_webp(encoded: bytes) -> bool:
    """By its first chunk of pixels; colour profiles of any length go before it."""
    place = len("RIFF....WEBP")
    while (kind := encoded[place : place + 4]) and kind not in (b"VP8 ", b"VP8L"):
        size = int.from_bytes(encoded[place + 4 : place + 8], "little")
        place += 8 + (16 if kind == b"ANMF" else size + size % 2)  # a frame holds the chunks of its pixels
    return kind == b"VP8L"


def _is_whole_page(picture: Any, page: int) -> bool:
    picture.seek(page)
    return not int(picture.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & _REDUCED


def _samples(values: np.ndarray, picture: Any, encoded: bytes) -> np.ndarray:
    """Values as Pillow reads grey pictures -> the samples of the file: it stretches those of fewer bits to 0 to 255 (or
    65535)."""
    full, largest = 255 if picture.mode == "L" else 65535, 0
    if picture.format == "PNG":
        largest = (1 << encoded[_PNG_DEPTH]) - 1
    elif picture.format == "TIFF" and picture.mode == "L":
        largest = (1 << picture.tag_v2[_BITS_PER_SAMPLE][0]) - 1
    elif picture.format == "PPM":  # says in its header what its largest value is
        how: Any = Image.open(io.BytesIO(encoded)).tile[0][3]
        largest = 0 if isinstance(how, str) else how[1]
    return np.rint(values * (largest / full)).astype(values.dtype) if 0 < largest < full else values


def _refuse_grey_palette(picture: Image.Image, where: str) -> None:
    """Raises MaskError where all colours are grey and some are not their indices, as programs that make files smaller
    leave a grey mask. Black and white alone are a mask of one bit."""
    palette = np.array(picture.getpalette("RGB"), np.int64).reshape(-1, 3)
    used = np.array([index for _, index in picture.getcolors() or []])
    used = np.sort(used[used < len(palette)])
    greys = palette[:, 0]
    is_binary = set(used) <= {0, 1} and list(greys[:2]) == [0, 255]
    wrong = used[greys[used] != used]
    if wrong.size and (palette == greys[:, None]).all() and not is_binary:
        raise MaskError(
            f"{where}: a palette of greys that are not their indices (index {wrong[0]} is grey {greys[wrong[0]]}), and "
            "either may be the class ids; save the ids as a greyscale PNG, without a palette"
        )


def _rgb(picture: Image.Image, where: str) -> Image.Image:
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise DataError(
            f"{where}: a picture of mode {picture.mode} cannot be turned into RGB ({error}); save it as RGB first"
        ) from error


def _save(picture: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **_SAVE_OPTIONS[format])
    return buffer.getvalue()


def _open(encoded: bytes, where: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(encoded))
        picture.load()
    except BROKEN as error:
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{where}: not a picture that can be decoded, {len(encoded)} bytes ({reason}); replace it or leave it out"
        ) from error
    return picture
