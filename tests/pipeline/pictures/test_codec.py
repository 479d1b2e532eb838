"""What is encoded comes back; what is broken is refused by name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from models.labels import GARMENTS, VOC
from pipeline.base.errors import DataError
from pipeline.pictures.codec import ImageFormat, decode_image, decode_mask, encode_image, encode_mask
from pipeline.pictures.masks import check_mask


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


def test_check_mask_lists_values_that_are_no_class() -> None:
    mask = np.array([[0, 20, 255]], np.uint8)
    check_mask(mask, VOC, "here")
    check_mask(mask[:0], VOC, "an empty mask")
    with pytest.raises(DataError, match=r"b\.png: the mask holds 20; label space 'garments' has class ids 0 to 8"):
        check_mask(mask, GARMENTS, "b.png")
    with pytest.raises(DataError, match=r"21, 22, 23, 24, 25, 26, 27, 28, 29, 30, \.\.\.;"):
        check_mask(np.arange(60000, dtype=np.uint16).reshape(100, 600), VOC, "c.png")
