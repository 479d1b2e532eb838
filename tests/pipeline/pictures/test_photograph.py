"""Pictures of every kind become upright sRGB, and those that are so keep their bytes."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.base.errors import DataError
from pipeline.pictures.codec import decode_image
from pipeline.pictures.photograph import read_photograph, upright_size

RED, GREEN = (250, 10, 20), (10, 250, 20)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"####", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"####", b"gXYZ", 1)
"""Of a screen whose red is green: colours that were not translated show."""


def lut_profile() -> bytes:
    """A profile for CMYK whose inks do nothing but black's: two grid points an ink, to L*a*b*."""
    linear = bytes(range(256))
    grid = b"".join(bytes([0 if number & 1 else 255, 128, 128]) for number in range(16))
    matrix = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + linear * 4 + grid + linear * 3
    tag = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    header = struct.pack(">I4sI4s4s4s", 144 + len(table), bytes(4), 0x02100000, b"prtr", b"CMYK", b"Lab ")
    illuminant = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return (header + bytes(12) + b"acsp" + bytes(28) + illuminant).ljust(128, b"\0") + tag + table


def saved(colour: object, mode: str = "RGB", format: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 2), colour).save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def pixel(encoded: bytes) -> list[int]:
    photograph = read_photograph(encoded, "here")
    image = decode_image(photograph.encoded, "here")
    assert image.shape == (photograph.height, photograph.width, 3)
    return list(image[0, 0])


@pytest.mark.parametrize("format", ["png", "webp", "tiff"])
def test_colours_of_a_profile_become_srgb(format: str) -> None:
    encoded = saved(RED, format=format, icc_profile=SWAPPED, lossless=True)

    np.testing.assert_allclose(pixel(encoded), GREEN, atol=12)
    assert "icc_profile" not in Image.open(io.BytesIO(read_photograph(encoded, "here").encoded)).info


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (*RED, 0)), ("P", 0)])
def test_also_those_of_palettes_and_with_transparency(mode: str, colour: object) -> None:
    picture = Image.new("RGBA", (4, 2), (*RED, 255)) if mode == "RGBA" else Image.new("P", (4, 2), 0)
    if mode == "P":
        picture.putpalette(list(RED))
    buffer = io.BytesIO()
    picture.save(buffer, "png", icc_profile=SWAPPED)

    np.testing.assert_allclose(pixel(buffer.getvalue()), GREEN, atol=12)


def test_a_picture_in_srgb_keeps_its_bytes() -> None:
    encoded = saved(RED, format="jpeg", icc_profile=SRGB)

    assert read_photograph(encoded, "here").encoded == encoded


@pytest.mark.parametrize("profile", [b"no profile", SWAPPED[:200], SWAPPED[:-300], lut_profile()], ids=len)
def test_a_profile_that_is_broken_or_for_other_colours_is_ignored(profile: bytes) -> None:
    encoded = saved(RED, format="jpeg", icc_profile=profile)

    assert read_photograph(encoded, "here").encoded == encoded


def test_cmyk_is_translated_by_its_profile() -> None:
    encoded = saved((255, 255, 0, 0), "CMYK", "tiff", icc_profile=lut_profile())

    assert min(pixel(encoded)) >= 250, "these inks print nothing; without the profile it is blue"
    assert max(pixel(saved((0, 0, 0, 255), "CMYK", "tiff", icc_profile=lut_profile()))) <= 5
    assert pixel(saved((255, 255, 0, 0), "CMYK", "tiff", icc_profile=b"broken")) == [0, 0, 255]


def test_of_several_frames_the_first_is_taken_and_their_number_told() -> None:
    frames = [Image.new("RGB", (4, 2), colour) for colour in (RED, GREEN)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "tiff", save_all=True, append_images=frames[1:])

    assert read_photograph(buffer.getvalue(), "here").num_frames == 2
    assert pixel(buffer.getvalue()) == list(RED)


def test_transparent_pictures_lie_on_white_or_are_refused() -> None:
    half = saved((0, 0, 0, 0), "RGBA")

    photograph = read_photograph(half, "here")

    assert photograph.was_transparent and decode_image(photograph.encoded, "here")[0, 0].tolist() == [255, 255, 255]
    with pytest.raises(DataError, match="here: transparent somewhere; .*--transparency white"):
        read_photograph(half, "here", "refuse")


def test_a_single_colour_may_be_transparent() -> None:
    keyed = saved(RED, transparency=RED)

    assert pixel(keyed) == [255, 255, 255]


def test_opaque_pictures_with_a_channel_for_it_are_as_before() -> None:
    photograph = read_photograph(saved((*RED, 255), "RGBA"), "here", "refuse")

    assert not photograph.was_transparent and pixel(saved((*RED, 255), "RGBA")) == list(RED)


def test_the_size_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    assert upright_size(saved(RED, format="jpeg"), "here") == (2, 4)
    assert upright_size(saved(RED, format="jpeg", exif=exif), "here") == (4, 2)
    with pytest.raises(DataError, match="here: not a picture"):
        upright_size(b"no", "here")


@pytest.mark.parametrize("format", ["png", "webp", "jpeg", "tiff", "avif"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_pictures_of_all_formats_are_turned_alike_and_their_masks_with_them(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = saved(RED, format=format, exif=exif)
    stored = np.arange(8, dtype=np.uint8).reshape(2, 4)

    photograph = read_photograph(encoded, "here")

    assert (photograph.height, photograph.width) == upright_size(encoded, "here") == ((2, 4), (4, 2))[orientation == 6]
    assert (photograph.turned(stored, as_stored=True) == np.rot90(stored, 2 if orientation == 3 else -1)).all()
    assert decode_image(photograph.encoded, "here").shape[:2] == (photograph.height, photograph.width)


def test_sixteen_bits_in_three_channels_are_refused() -> None:
    pixels = np.full((2, 4, 3), 4095, "<u2").tobytes()
    end = 8 + 2 + 9 * 12 + 4
    values = {256: 4, 257: 2, 258: end, 259: 1, 262: 2, 273: end + 6, 277: 3, 278: 2, 279: len(pixels)}
    tags = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, value)
        for tag, value in values.items()
    )
    tiff = b"II*\0" + struct.pack("<IH", 8, 9) + tags + bytes(4) + struct.pack("<3H", 16, 16, 16) + pixels

    assert Image.open(io.BytesIO(tiff)).mode == "RGB"
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        read_photograph(tiff, "here")
