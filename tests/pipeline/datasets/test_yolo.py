"""YOLO's segments, in the layouts of Ultralytics and Roboflow."""

from __future__ import annotations

import fsspec
import pytest
from PIL import Image

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.datasets.yolo import YOLO
from tests.pipeline.datasets.trees import read_all, save_lines, save_picture

HALF = "0.1 0.166667 0.8 0.166667 0.8 0.833333 0.1 0.833333"
"""A box of 7 x 4 pixels of the picture's 10 x 6."""


def save(tree, lines=(f"1 {HALF}",), images="images/train", labels="labels/train", facts="train: images/train"):
    save_picture(tree / images / "a.jpg")
    save_lines(tree / labels / "a.txt", list(lines))
    save_lines(tree / "data.yaml", ["names: {0: car, 1: dog}", *facts.split("|")])
    return tree


@pytest.mark.parametrize(
    ("images", "labels", "facts"),
    [
        ("images/train", "labels/train", "path: .|train: images/train"),
        ("images/train", "labels/train", "path: ../datasets/elsewhere|train: [images/train]"),
        ("train/images", "train/labels", "train: ../train/images|val: ../valid/images"),
    ],
)
def test_both_usual_layouts(tmp_path, images, labels, facts):
    source = YOLO(str(save(tmp_path, images=images, labels=labels, facts=facts)), "train")

    row = read_all(source)["a"]

    assert source.labels.classes == ("background", "car", "dog")
    assert (row["mask"] == 2).sum() == 28 and row["mask"][1, 1] == 2


def test_labels_beside_a_folder_of_another_name_are_found_on_a_store_too(tmp_path):
    save(tmp_path, images="train", labels="labels", facts="train: train")
    fsspec.filesystem("memory").put(str(tmp_path), "/yolo", recursive=True)

    for root in (str(tmp_path), "memory://yolo"):
        assert (read_all(YOLO(root, "train"))["a"]["mask"] == 2).sum() == 28


def test_overlaps_go_by_the_file_or_by_size(tmp_path):
    small = "0 0.2 0.333333 0.4 0.333333 0.4 0.666667 0.2 0.666667"
    save(tmp_path, [small, f"1 {HALF}"])

    assert (read_all(YOLO(str(tmp_path), "train"))["a"]["mask"] == 1).sum() == 0
    assert (read_all(YOLO(str(tmp_path), "train", overlap="area"))["a"]["mask"] == 1).sum() == 4


def test_a_rotated_picture_has_the_outlines_of_what_viewers_show(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path)
    save_picture(tmp_path / "images/train/a.jpg", exif=exif)

    mask = read_all(YOLO(str(tmp_path), "train"))["a"]["mask"]

    assert mask.shape == (10, 6) and (mask[2:8, 1:4] == 2).all()


def test_a_picture_without_a_file_shows_nothing_or_has_no_mask(tmp_path):
    save(tmp_path)
    save_picture(tmp_path / "images/train/b.jpg")

    assert not read_all(YOLO(str(tmp_path), "train"))["b"]["mask"].any()
    assert read_all(YOLO(str(tmp_path), "train", labelled="some"))["b"]["mask"] is None
    assert read_all(YOLO(str(tmp_path), "train", labelled="none"))["a"]["mask"] is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 0.5 0.5 0.2 0.2", "a box"),
        ("0 0.1 0.1 0.2 0.2 0.3", "three corners"),
        ("7 0.1 0.1 0.5 0.1 0.5 0.5", "there is no class 7; data.yaml names 2"),
        ("0 1 1 50 1 50 50", "not between 0 and 1"),
        ("dog 0.1 0.1 0.5 0.1 0.5 0.5", "line 2"),
    ],
)
def test_a_wrong_line_is_told(tmp_path, line, told):
    save(tmp_path, [f"1 {HALF}", line])

    row = read_all(YOLO(str(tmp_path), "train"))["a"]

    assert row["error"] == "wrong_mask" and told in row["error_detail"] and "line 2" in row["error_detail"]


def test_wrong_sets_are_told(tmp_path):
    with pytest.raises(DataError, match=r"no data\.yaml"):
        YOLO(str(tmp_path), "train").entries()
    save(tmp_path)
    with pytest.raises(DataError, match="no split 'test'; there are train"):
        YOLO(str(tmp_path), "test").entries()
    with pytest.raises(DataError, match="its names are car, dog, but the classes of 'x' are dog, car"):
        _ = YOLO(str(tmp_path), "train", LabelSpace.custom("x", ("dog", "car"))).labels
    for names in ("car", "3", "", "{0: car, '1': dog}", "{1: car, 2: dog}"):
        save_lines(tmp_path / "data.yaml", [f"names: {names}", "train: images/train"])
        with pytest.raises(DataError, match="data.yaml.*`names`"):
            _ = YOLO(str(tmp_path), "train").labels
    save(tmp_path, facts="train: train.txt")
    with pytest.raises(DataError, match="a list of files"):
        YOLO(str(tmp_path), "train").entries()
