"""Pictures from cameras, as data sets hold them: turned upright, sRGB, on white where they are transparent."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image

from pipeline.base.errors import DataError
from pipeline.pictures.codec import BROKEN, _open, _rgb, _save, bits_of, num_frames
from pipeline.pictures.colour import in_srgb

Transparency = Literal["white", "refuse"]
"""What becomes of pictures that are transparent somewhere: they are laid on white, or are no pairs."""

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
_SIZE = 256, 257
"""Tags of TIFF: width and height as stored."""
_LONGEST_WEBP_PX = 16_383


@dataclass(frozen=True)
class Photograph:
    """A picture from a camera, upright and sRGB.

    Attributes:
        encoded: the bytes as they were given where those are so already, else lossless WebP.
        height, width: upright.
        turn: how it was turned; None where it stands as it was stored.
        num_frames: of the file; this is the first.
        was_transparent: whether it was so somewhere, and now lies on white.
        digest: of its pixels, as `content_digest` has it.
    """

    encoded: bytes
    height: int
    width: int
    turn: Image.Transpose | None = None
    num_frames: int = 1
    was_transparent: bool = False
    digest: str = ""

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


def read_photograph(encoded: bytes, where: str, transparency: Transparency = "white") -> Photograph:
    """Reads a picture of a real data set: grey, palette and CMYK pictures become RGB, those with a colour profile sRGB,
    rotated ones (EXIF) upright, transparent ones lie on white. Of several frames the first is taken.

    Raises:
        DataError: undecodable, cut short, of more than 8 bits a channel, or transparent where that is refused; `where`
            is named.
    """
    picture = _open(encoded, where)
    if picture.mode in _TOO_DEEP or bits_of(picture, encoded) > 8:
        raise DataError(
            f"{where}: a picture of mode {picture.mode} with more than 8 bits a channel; scale it to 8 bits first"
        )
    opacity = _opacity(picture)
    if opacity and transparency == "refuse":
        raise DataError(f"{where}: transparent somewhere; lay it on a background, or say --transparency white")
    frames, to_turn, coloured = num_frames(picture, encoded), _TURNS.get(_orientation(picture)), in_srgb(picture)
    # Pillow turns a TIFF as it loads it, and forgets that it did.
    turn = _TURNS.get(_orientation(Image.open(io.BytesIO(encoded)))) if picture.format == "TIFF" else to_turn
    is_plain = picture.mode == "RGB" and not picture.has_transparency_data
    if coloured is picture and is_plain and picture.format in _KEPT_FORMATS and turn is None:
        digest = content_digest(np.asarray(picture))
        return Photograph(encoded, picture.height, picture.width, num_frames=frames, digest=digest)
    upright = _rgb(coloured, where)
    if opacity:
        upright = Image.composite(upright, Image.new("RGB", upright.size, "white"), opacity)
    if to_turn is not None:
        upright = upright.transpose(to_turn)
    format = "webp" if max(upright.size) <= _LONGEST_WEBP_PX else "png"
    saved, digest = _save(upright, format), content_digest(np.asarray(upright))
    return Photograph(saved, upright.height, upright.width, turn, frames, opacity is not None, digest)


def content_digest(pixels: np.ndarray) -> str:
    """Digest of a picture, (H, W, 3) uint8: the same for the same pixels, whatever file they are in."""
    size = np.array(pixels.shape, np.int64).tobytes()
    return blake2b(
        np.ascontiguousarray(pixels).data, digest_size=16, salt=blake2b(size, digest_size=8).digest()
    ).hexdigest()


def upright_size(encoded: bytes, where: str) -> tuple[int, int]:
    """Height and width of a picture as viewers show it, by its header alone.

    Raises:
        DataError: no picture; `where` is named.
    """
    try:
        picture: Any = Image.open(io.BytesIO(encoded))
    except BROKEN as error:
        raise DataError(f"{where}: not a picture that can be decoded, {len(encoded)} bytes ({error})") from error
    # Pillow's size of a TIFF is that of the turned picture.
    width, height = [picture.tag_v2[tag] for tag in _SIZE] if picture.format == "TIFF" else picture.size
    return (width, height) if _TURNS.get(_orientation(picture)) in _QUARTERS else (height, width)


def _opacity(picture: Image.Image) -> Image.Image | None:
    """From 0, transparent, to 255; None where all of it is opaque."""
    if not picture.has_transparency_data:
        return None
    opacity = picture.convert("RGBA").getchannel("A")
    return None if opacity.getextrema() == (255, 255) else opacity


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, OSError, struct.error):  # damaged EXIF says nothing of the picture
        return 1
