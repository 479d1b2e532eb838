"""What is encoded comes back; what is broken is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from models.labels import VOC
from pipeline.base.errors import DataError, MaskError
from pipeline.pictures.codec import ImageFormat, decode_image, decode_mask, encode_image, encode_mask, open_mask
from pipeline.pictures.photograph import upright_size


@pytest.fixture
def image() -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def _encoded(picture: Image.Image, format: str = "png") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["png", "webp"])
def test_png_and_webp_are_lossless(image: np.ndarray, format: ImageFormat) -> None:
    encoded = encode_image(image, format)
    assert Image.open(io.BytesIO(encoded)).format == format.upper()
    np.testing.assert_array_equal(decode_image(encoded, "here"), image)


def test_jpeg_keeps_full_colour_resolution(image: np.ndarray) -> None:
    encoded = encode_image(image, "jpeg")
    picture = Image.open(io.BytesIO(encoded))
    assert isinstance(picture, JpegImageFile)
    assert [layer[1:3] for layer in picture.layer] == [(1, 1)] * 3
    difference = np.abs(decode_image(encoded, "here").astype(int) - image)
    assert difference.mean() < 2


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint8, "L"), (np.uint16, "I;16")])
def test_masks_keep_every_id(dtype: type, mode: str) -> None:
    mask: np.ndarray = np.linspace(0, np.iinfo(dtype).max, 48 * 64).astype(dtype).reshape(48, 64)
    encoded = encode_mask(mask)
    assert Image.open(io.BytesIO(encoded)).mode == mode
    decoded = decode_mask(encoded, "here")
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, mask)


def test_palette_masks_are_read_as_indices() -> None:
    mask = np.array([[0, 1, 15], [20, 255, 0]], np.uint8)
    picture = Image.fromarray(mask).convert("P")
    picture.putdata(mask.reshape(-1).tolist())
    picture.putpalette([value for colour in VOC.palette for value in colour])
    np.testing.assert_array_equal(decode_mask(_encoded(picture), "here"), mask)


def test_one_bit_masks_are_zero_and_one() -> None:
    mask = np.array([[0, 1], [1, 0]], np.uint8)
    np.testing.assert_array_equal(decode_mask(_encoded(Image.fromarray(mask.astype(bool))), "here"), mask)


SAMPLES = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)


def packed(samples: np.ndarray, bits: int) -> Iterator[bytes]:
    """Rows of samples of `bits` bits, as PNG and TIFF have them."""
    for row in samples:
        yield np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:]).tobytes()


def grey_png(samples: np.ndarray, bits: int) -> bytes:
    """As libpng and MATLAB write it; Pillow writes no samples of 2 or 4 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, 0, 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + row for row in packed(samples, bits)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def grey_tiff(samples: np.ndarray, bits: int) -> bytes:
    data = b"".join(packed(samples, bits)).ljust(8, b"\0")
    height, width = samples.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    listed = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 16) + data + struct.pack("<H", len(tags)) + listed + bytes(4)


def pgm(samples: np.ndarray, largest: int) -> bytes:
    height, width = samples.shape
    return (
        f"P5\n{width} {height}\n{largest}\n".encode() + samples.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    )


@pytest.mark.parametrize(
    "encoded",
    [
        grey_png(SAMPLES, 2),
        grey_png(SAMPLES, 4),
        grey_tiff(SAMPLES, 2),
        grey_tiff(SAMPLES, 4),
        pgm(SAMPLES, 3),
        pgm(SAMPLES, 20),
        pgm(SAMPLES, 1000),
    ],
    ids=["PNG, 2 bits", "PNG, 4 bits", "TIFF, 2 bits", "TIFF, 4 bits", "PGM to 3", "PGM to 20", "PGM to 1000"],
)
def test_grey_masks_of_few_bits_are_read_as_their_samples(encoded: bytes) -> None:
    np.testing.assert_array_equal(decode_mask(encoded, "here"), SAMPLES)


def test_a_png_of_one_bit_is_zero_and_one() -> None:
    mask = np.array([[0, 1] * 4, [1, 0] * 4], np.uint8)
    np.testing.assert_array_equal(decode_mask(grey_png(mask, 1), "here"), mask)


def palette_png(indices: np.ndarray, greys: list[int], colours: list[int] | None = None) -> bytes:
    picture = Image.fromarray(indices).convert("P")
    picture.putdata(indices.reshape(-1).tolist())
    picture.putpalette([value for grey in greys for value in [grey] * 3] + (colours or []))
    return _encoded(picture)


def test_a_palette_of_greys_that_are_not_their_indices_is_refused() -> None:
    with pytest.raises(MaskError, match=r"a\.png: a palette of greys .* \(index 1 is grey 5\).* without a palette"):
        decode_mask(palette_png(SAMPLES, [0, 5, 15, 255]), "a.png")


@pytest.mark.parametrize(
    ("greys", "colours"), [([0, 1, 2, 3], []), ([0, 128, 64, 3], [128, 0, 0])], ids=["of its indices", "with a colour"]
)
def test_other_palettes_with_greys_are_read_as_indices(greys: list[int], colours: list[int]) -> None:
    np.testing.assert_array_equal(decode_mask(palette_png(SAMPLES, greys, colours), "here"), SAMPLES)


def test_a_palette_of_black_and_white_is_a_mask_of_one_bit() -> None:
    mask = SAMPLES % 2
    np.testing.assert_array_equal(decode_mask(palette_png(mask, [0, 255]), "here"), mask)


@pytest.mark.parametrize("format", ["tiff", "gif"])
def test_masks_of_several_pages_are_refused(format: str) -> None:
    pages = [Image.fromarray(SAMPLES + number) for number in range(3)]
    buffer = io.BytesIO()
    pages[0].save(buffer, format, save_all=True, append_images=pages[1:])
    with pytest.raises(MaskError, match="m: holds 3 pages, and nothing says which is the mask"):
        decode_mask(buffer.getvalue(), "m")


def test_smaller_copies_in_a_tiff_are_no_pages() -> None:
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer) as file:
        for mask, kind in ((SAMPLES, 0), (SAMPLES[:1, ::2], 1)):
            Image.fromarray(mask).save(file, "tiff", tiffinfo={254: kind})
            file.newFrame()
    np.testing.assert_array_equal(decode_mask(buffer.getvalue(), "here"), SAMPLES)


def test_a_jpeg_within_a_tiff_is_lossy_too() -> None:
    buffer = io.BytesIO()
    Image.fromarray(SAMPLES).save(buffer, "tiff", compression="jpeg")
    with pytest.raises(MaskError, match=r"JPEG \(in a TIFF\) is lossy"):
        decode_mask(buffer.getvalue(), "m")


def test_a_webp_is_lossless_behind_any_profile_and_metadata() -> None:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.dstack([SAMPLES] * 3))
    picture.save(buffer, "webp", lossless=True, icc_profile=bytes(8001), exif=bytes(501))
    assert open_mask(buffer.getvalue(), "m").size == picture.size
    for options in ({}, {"icc_profile": b"VP8L"}):
        lossy = io.BytesIO()
        picture.save(lossy, "webp", **options)
        with pytest.raises(MaskError, match="WEBP is lossy"):
            open_mask(lossy.getvalue(), "m")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA"])
def test_images_of_any_mode_become_rgb(image: np.ndarray, mode: str) -> None:
    picture = Image.fromarray(image).convert(mode)
    decoded = decode_image(_encoded(picture, "tiff"), "here")
    assert decoded.shape == image.shape
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_coloured_masks_are_refused(image: np.ndarray, mode: str) -> None:
    with pytest.raises(DataError, match=f"mask of row 7: .* mode {mode}; save the ids"):
        decode_mask(_encoded(Image.fromarray(image).convert(mode)), "mask of row 7")


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_cut_files_are_refused_wherever_they_are_cut(image: np.ndarray, format: ImageFormat) -> None:
    encoded = encode_image(image, format)
    # The last 21 bytes of a PNG are checksums and an end mark, without which all pixels are still there.
    for length in range(0, len(encoded) - 21, 17):
        with pytest.raises(DataError, match=r"a\.png: not a picture"):
            decode_image(encoded[:length], "a.png")


def test_a_damaged_avif_is_refused_by_name(image: np.ndarray) -> None:
    whole = _encoded(Image.fromarray(image), "avif")
    num_refused = 0
    for place in range(0, len(whole), 3):
        damaged = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        for read in (decode_image, upright_size):
            try:
                read(damaged, "a.avif")
            except DataError as error:
                num_refused += "a.avif: not a picture" in str(error)
    assert num_refused


def test_bytes_that_are_no_picture_are_refused() -> None:
    for garbage in (b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(100)):
        with pytest.raises(DataError, match="row 3"):
            decode_mask(garbage, "row 3")


def test_wrong_arrays_are_refused(image: np.ndarray) -> None:
    for wrong in (image[:, :, 0], image.astype(np.float32), image[:, :, :2]):
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
            encode_image(wrong)
    with pytest.raises(ValueError, match="not one of png, webp, jpeg"):
        encode_image(image, "gif")  # type: ignore[arg-type]
    for wrong in (image, image[:, :, 0].astype(np.int64)):
        with pytest.raises(ValueError, match=r"\(H, W\) uint8 or uint16"):
            encode_mask(wrong)
