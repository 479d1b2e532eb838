"""A folder of pictures beside a folder of masks; and what is done to pictures of every kind."""

from __future__ import annotations

import shutil
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.datasets.folder import Folder
from tests.pipeline.datasets.trees import mask_of, picture, read_all, save_json, save_mask, save_picture

LABELS = LabelSpace.custom("tools", ("bolt", "nut"))


@pytest.fixture
def tree(tmp_path):
    save_picture(tmp_path / "images/a.png")
    save_mask(tmp_path / "masks/a.png", mask_of(2))
    return tmp_path


def save_png_of_16_bits(path, channels):
    """Pillow writes none of three channels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 10, 6, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    lines = (b"\0" + bytes(10 * channels * 2)) * 6
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )


def only(tree, **settings):
    (row,) = read_all(Folder(str(tree), LABELS, **settings)).values()
    return row


def test_pairs_are_found_by_name_in_folders_too(tree):
    save_picture(tree / "images/x/b.c.jpg")
    save_mask(tree / "masks/x/b.c.png", mask_of(1))

    pairs = read_all(Folder(str(tree), LABELS))

    assert sorted(pairs) == ["a", "x/b.c"]
    np.testing.assert_array_equal(pairs["x/b.c"]["mask"], mask_of(1))
    np.testing.assert_array_equal(pairs["a"]["image"], picture())


def test_masks_may_have_a_suffix_and_lie_among_the_pictures_of_another_folder(tree):
    save_mask(tree / "labels/a_mask.png", mask_of(1))

    row = only(tree, masks="labels", mask_suffix="_mask")

    np.testing.assert_array_equal(row["mask"], mask_of(1))


@pytest.mark.parametrize(
    ("mask", "layout"),
    [
        ("images/masks/a.png", {"masks": "images/masks"}),
        ("images/a_mask.png", {"masks": "images", "mask_suffix": "_mask"}),
    ],
)
@pytest.mark.parametrize("labelled", ["all", "some"])
def test_masks_among_the_pictures_are_no_pictures(tree, caplog, monkeypatch, mask, layout, labelled):
    monkeypatch.setattr(log, "propagate", True)
    save_mask(tree / mask, mask_of(1))

    row = only(tree, **layout, labelled=labelled)

    np.testing.assert_array_equal(row["mask"], mask_of(1))
    assert "belong to no picture" not in caplog.text


def test_pictures_may_have_a_suffix_that_their_masks_lack(tree, caplog):
    """As IDD has them: x_image.jpg and x_label.png; what else lies beside them is no picture of the set."""
    save_picture(tree / "images/7/1_image.png")
    save_picture(tree / "images/7/1_depth.png")
    save_mask(tree / "masks/7/1_label.png", mask_of(1))
    with caplog.at_level("INFO"):
        pairs = read_all(Folder(str(tree), LABELS, image_suffix="_image", mask_suffix="_label"))
    assert list(pairs) == ["7/1"]
    np.testing.assert_array_equal(pairs["7/1"]["mask"], mask_of(1))
    assert "2 pictures that do not end with '_image' are passed over" in caplog.text
    with pytest.raises(DataError, match="no picture's name ends with '_img' .* correct `folder_layout.image_suffix`"):
        Folder(str(tree), LABELS, image_suffix="_img").entries()


def test_values_are_mapped_to_classes(tree):
    save_mask(tree / "masks/a.png", mask_of(255))

    assert only(tree)["class_ids"].tolist() == [0, 255]
    np.testing.assert_array_equal(only(tree, values={255: 1})["mask"], mask_of(1))


def test_masks_of_16_bits_are_read(tree):
    Image.fromarray(mask_of(2).astype(np.uint16)).save(tree / "masks/a.png")

    row = only(tree)

    assert row["mask"].dtype == np.uint8
    np.testing.assert_array_equal(row["mask"], mask_of(2))


def test_captions_of_a_file(tree):
    captions = save_json(tree / "captions.json", {"a": ["two nuts", "nuts"]})

    assert only(tree, captions=str(captions))["captions"] == ["two nuts", "nuts"]


@pytest.mark.parametrize(
    ("image", "mask", "layout"),
    [
        ("image/0.jpg", "label/0.png", {"images": "image", "masks": "label"}),
        ("image/0.jpg", "label_optimized_20/0.png", {"images": "image", "masks": "label_optimized_20"}),
        ("image/x.jpg", "mask/x.png", {"images": "image", "masks": "mask"}),
        (
            "images_resampled/a_seed_42.jpg",
            "annotations_filtered_resampled/a_seed_42.png",
            {"images": "images_resampled", "masks": "annotations_filtered_resampled"},
        ),
        (
            "train_image/image_dog_0.jpg",
            "refine_gt_crf/image_dog_0.png",
            {"images": "train_image", "masks": "refine_gt_crf"},
        ),
        (
            "images/train2017/7.jpg",
            "annotations/train2017/7_labelTrainIds.png",
            {"images": "images/train2017", "masks": "annotations/train2017", "mask_suffix": "_labelTrainIds"},
        ),
        (
            "train2017/7.jpg",
            "annotations/semantic_train2017_80/7.png",
            {"images": "train2017", "masks": "annotations/semantic_train2017_80"},
        ),
    ],
    ids=[
        "JoDiffusion",
        "JoDiffusion, refined",
        "Dataset Diffusion",
        "FreeMask",
        "DiffuMask",
        "COCO-Stuff",
        "COCO, converted",
    ],
)
def test_what_other_generators_and_converters_write_is_read(tmp_path, image, mask, layout):
    save_picture(tmp_path / image)
    save_picture(tmp_path / image.replace("7.", "8.").replace("x.", "y.").replace("0.", "1.").replace("42", "43"))
    save_mask(tmp_path / mask, mask_of(1, border=255), palette=True)

    pairs = read_all(Folder(str(tmp_path), LABELS, **layout))

    read, without_mask = sorted(pairs.values(), key=lambda row: row["error"])
    np.testing.assert_array_equal(read["mask"], mask_of(1, border=255))
    assert without_mask["error"] == "missing_file", "a picture without a mask shifts nothing"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_pictures_are_turned_upright(tree, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    (tree / "images/a.png").unlink()
    save_picture(tree / "images/a.jpg", exif=exif)
    sideways = orientation >= 5
    upright = mask_of(2).T if sideways else mask_of(2)
    save_mask(tree / "masks/a.png", upright)

    row = only(tree)

    assert not row["error"] and row["image"].shape[:2] == ((10, 6) if sideways else (6, 10))
    np.testing.assert_array_equal(row["mask"], upright, "drawn on the upright picture, as annotators see it")
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert row["image"][corner[orientation]].sum() <= 12, "where the dark corner of the stored picture goes"


def test_a_mask_that_only_fits_the_picture_as_stored_is_turned_with_it(tree):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter to the right
    (tree / "images/a.png").unlink()
    save_picture(tree / "images/a.jpg", exif=exif)

    row = only(tree)

    np.testing.assert_array_equal(row["mask"], np.rot90(mask_of(2), -1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_pictures_of_other_modes_become_rgb(tree, mode):
    name = "a.tif" if mode == "CMYK" else "a.png"
    (tree / "images/a.png").unlink()
    path = save_picture(tree / "images" / name, mode=mode)

    row = only(tree)

    assert not row["error"] and row["image"].shape == (6, 10, 3)
    np.testing.assert_array_equal(row["image"], np.array(Image.open(path).convert("RGB")))


def test_a_jpeg_in_cmyk_is_read_as_viewers_show_it(tree):
    (tree / "images/a.png").unlink()
    path = save_picture(tree / "images/a.jpg", mode="CMYK")

    np.testing.assert_array_equal(only(tree)["image"], np.array(Image.open(path).convert("RGB")))


def test_an_upright_rgb_picture_keeps_its_bytes(tree):
    (tree / "images/a.png").unlink()
    path = save_picture(tree / "images/a.jpg")

    assert only(tree)["file"] == path.read_bytes()


def test_masks_drawn_on_pictures_as_stored_are_turned_where_that_is_said(tree):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3  # upside down, so the mask fits both ways
    (tree / "images/a.png").unlink()
    save_picture(tree / "images/a.jpg", exif=exif)
    mask = mask_of(2)
    mask[0, 0] = 1
    save_mask(tree / "masks/a.png", mask)

    np.testing.assert_array_equal(only(tree)["mask"], mask)
    (row,) = read_all(Folder(str(tree), LABELS), as_stored=True).values()
    np.testing.assert_array_equal(row["mask"], mask[::-1, ::-1])


def test_damaged_exif_says_nothing_of_the_picture(tree):
    save_picture(tree / "images/a.png", exif=b"Exif\0\0not a TIFF header")

    np.testing.assert_array_equal(only(tree)["image"], picture())


def test_a_picture_too_long_for_webp_is_kept_too(tree):
    long = np.zeros((2, 17_000), np.uint8)
    save_mask(tree / "images/a.png", long)
    save_mask(tree / "masks/a.png", long)

    assert not only(tree)["error"]


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_masks_in_a_lossy_format_are_refused(tree, name):
    (tree / "masks/a.png").unlink()
    save_picture(tree / "masks" / name, np.repeat(mask_of(2)[:, :, None], 3, axis=2), mode="L")

    row = only(tree)

    assert row["error"] == "wrong_mask" and "is lossy and has changed some" in row["error_detail"]


def test_linked_folders_are_looked_into(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save_picture(elsewhere / "images/b.png")
    save_mask(elsewhere / "masks/b.png", mask_of(1))
    for name in ("images", "masks"):
        (tree / name / "linked").symlink_to(elsewhere / name)

    assert sorted(read_all(Folder(str(tree), LABELS))) == ["a", "linked/b"]


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_file_that_is_cut_short_is_an_error_of_its_row(tree, folder):
    path = tree / folder / "a.png"
    path.write_bytes(path.read_bytes()[:-30])

    row = only(tree)

    assert row["error"] == "undecodable_input" and "a" in row["error_detail"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_16_bits_is_refused(tree, channels):
    save_png_of_16_bits(tree / "images/a.png", channels)

    row = only(tree)

    assert row["error"] == "undecodable_input" and "more than 8 bits a channel" in row["error_detail"]


def test_a_mask_of_another_size_is_refused(tree):
    save_mask(tree / "masks/a.png", mask_of(1, width=12))

    row = only(tree)

    assert row["error"] == "wrong_mask" and "12 x 6 pixels, its picture 10 x 6" in row["error_detail"]


def test_what_is_not_there_is_told(tree, tmp_path):
    with pytest.raises(DataError, match="no such folder, or nothing in it"):
        Folder(str(tmp_path / "nothing"), LABELS).entries()
    (tree / "masks/a.png").rename(tree / "masks/z.png")
    with pytest.raises(DataError, match="no mask in masks/ has the name of a picture in images/"):
        Folder(str(tree), LABELS).entries()
    save_picture(tree / "images/a.jpg")
    with pytest.raises(DataError, match="two files of one name"):
        Folder(str(tree), LABELS).entries()


def test_pictures_without_masks_are_read_where_that_is_asked_for(tree):
    save_picture(tree / "images/b.jpg", picture(3))

    rows = read_all(Folder(str(tree), LABELS))
    some = read_all(Folder(str(tree), LABELS, labelled="some"))
    none = read_all(Folder(str(tree), LABELS, images="images", masks="no-such-folder", labelled="none"))

    assert rows["b"]["error"] == "missing_file" and "masks/b.png" in rows["b"]["error_detail"]
    assert not some["b"]["error"] and some["b"]["mask"] is None and not len(some["b"]["class_ids"])
    assert (some["b"]["height"], some["b"]["width"]) == picture().shape[:2]
    np.testing.assert_array_equal(some["a"]["mask"], mask_of(2))
    assert [row["mask"] for row in none.values()] == [None, None] and not any(row["error"] for row in none.values())


def test_masks_that_belong_to_no_picture_are_told_where_some_may_lack(tree, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    save_picture(tree / "images/b.jpg", picture(3))
    shutil.copy(tree / "masks/a.png", tree / "masks/b_mask.png")
    Folder(str(tree), LABELS, labelled="some").entries()
    assert "1 masks in masks/ belong to no picture in images/, such as b_mask" in said[0]


def test_masks_whose_names_are_spelt_in_another_form_belong_to_their_pictures(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    composed, decomposed = unicodedata.normalize("NFC", "größe"), unicodedata.normalize("NFD", "größe")
    names = [(composed, decomposed), (f"{decomposed} 2", f"{composed} 2"), (f"{composed} 3", f"{composed} 3")]
    for image, mask in names:
        save_picture(tmp_path / f"images/{image}.jpg", picture(3))
        save_mask(tmp_path / f"masks/{mask}.png", mask_of(1))

    entries = Folder(str(tmp_path), LABELS, labelled="some").entries()

    assert not said and all(entries["mask"].to_pylist())


def test_masks_of_other_names_are_a_mistake_even_where_some_may_lack(tree):
    with pytest.raises(DataError, match="pictures alone are read with --labelled none"):
        Folder(str(tree), LABELS, mask_suffix="_mask", labelled="some").entries()
