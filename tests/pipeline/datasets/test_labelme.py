"""Polygons of labelme, in files beside their pictures."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.datasets.labelme import LabelMe
from tests.pipeline.datasets.trees import HEIGHT, WIDTH, encoded, picture, read_all, save_json, save_picture

LABELS = LabelSpace.custom("street", ("car", "dog"))


def shape(label, points, kind="polygon", **others):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **others}


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def save(tree, name, shapes, **others):
    save_picture(tree / f"{name}.jpg")
    facts = {"version": "5.4.1", "imagePath": f"{name}.jpg", "imageData": None}
    return save_json(
        tree / f"{name}.json", {**facts, "shapes": shapes, "imageHeight": HEIGHT, "imageWidth": WIDTH, **others}
    )


def test_outlines_are_painted_in_the_order_of_the_file_or_the_smaller_on_top(tmp_path):
    small, large = shape("dog", box(2, 2, 4, 4)), shape("car", box(1, 1, 8, 5))
    save(tmp_path, "x/a", [small, large])

    by_file = read_all(LabelMe(str(tmp_path), LABELS))["x/a"]["mask"]
    by_area = read_all(LabelMe(str(tmp_path), LABELS, overlap="area"))["x/a"]["mask"]

    assert by_file[2:4, 2:4].tolist() == [[1, 1], [1, 1]] and by_area[2:4, 2:4].tolist() == [[2, 2], [2, 2]]
    assert (by_file > 0).sum() == (by_area > 0).sum() == 7 * 4


def test_every_kind_of_shape(tmp_path):
    part = base64.b64encode(encoded(np.array([[0, 255], [255, 255]], np.uint8))).decode()
    save(tmp_path, "rectangle", [shape("car", [[8, 5], [1, 1]], "rectangle")])
    save(tmp_path, "circle", [shape("car", [[5, 3], [7, 3]], "circle")])
    save(tmp_path, "mask", [shape("dog", [[3, 2], [4, 3]], "mask", mask=part)])
    save(tmp_path, "none", [])
    save(tmp_path, "void", [shape("car", box(0, 0, 9, 5)), shape("__ignore__", box(2, 2, 4, 4))])

    found = {name: row["mask"] for name, row in read_all(LabelMe(str(tmp_path), LABELS)).items()}

    assert (found["rectangle"] == 1).sum() == 28 and (found["circle"] == 1).sum() == 12
    assert found["mask"][2:4, 3:5].tolist() == [[0, 2], [2, 2]] and found["mask"].sum() == 6
    assert not found["none"].any() and (found["void"] == 255).sum() == 4


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (shape("cat", box(1, 1, 4, 4)), "'cat' is no class of 'street'"),
        (shape("car", [[1, 1], [4, 4]], "line"), "a line of 'car' covers no area"),
        (shape("car", [[1, 1], [4, 4]]), "the polygon of 'car' is damaged"),
        (shape("dog", [[9, 5], [10, 6]], "mask", mask="no PNG"), "the mask of 'dog' is damaged"),
        ({"label": "car"}, "damaged"),
        (shape("dog", [], "mask", mask="iVBORw0KGgo="), "it has no corner"),
        ("car", "not a file of labelme"),
        (shape("car", [[5, 3], [float("inf"), 3]], "circle"), "the circle of 'car' is damaged"),
        (shape("car", [[10**400, 3], [7, 3], [8, 4]]), "the polygon of 'car' is damaged"),
    ],
)
def test_what_cannot_be_painted_is_an_error_of_its_pair(tmp_path, wrong, told):
    save(tmp_path, "a", [shape("dog", box(1, 1, 3, 3)), wrong])

    row = read_all(LabelMe(str(tmp_path), LABELS))["a"]

    assert row["error"] == "wrong_mask" and told in row["error_detail"] and "a.json" in row["error_detail"]


@pytest.mark.parametrize("text", ["[" * 200_000, f'{{"imageHeight": 1{"0" * 400}, "imageWidth": 8, "shapes": []}}'])
def test_files_that_break_python_s_own_limits_are_errors_of_their_pairs(tmp_path, text):
    save(tmp_path, "a", [])
    (tmp_path / "a.json").write_text(text)

    row = read_all(LabelMe(str(tmp_path), LABELS))["a"]

    assert row["error"] == "wrong_mask" and "not a file of labelme" in row["error_detail"]


def test_outlines_of_a_picture_of_another_size(tmp_path):
    save(tmp_path, "a", [], imageHeight=99)

    assert "resized" in read_all(LabelMe(str(tmp_path), LABELS))["a"]["error_detail"]


def test_without_a_label_space_the_labels_are_listed(tmp_path):
    save(tmp_path, "a", [shape("dog", box(1, 1, 3, 3)), shape("big car", box(1, 1, 3, 3))])

    with pytest.raises(DataError, match=r'(dog|big car) \(1\), .*classes: \[background, "big car", "dog"\]'):
        LabelMe(str(tmp_path), None).entries()


def test_pictures_without_a_file(tmp_path):
    save(tmp_path, "a", [shape("dog", box(1, 1, 3, 3))])
    save_picture(tmp_path / "b.jpg", picture(3))

    found = read_all(LabelMe(str(tmp_path), LABELS))
    some = read_all(LabelMe(str(tmp_path), LABELS, labelled="some"))

    assert found["b"]["error"] == "missing_file" and some["b"]["mask"] is None and some["a"]["mask"].any()
    with pytest.raises(DataError, match="no picture has a JSON file of its name"):
        save(tmp_path / "y", "c", []).rename(tmp_path / "y" / "d.json")
        LabelMe(str(tmp_path / "y"), LABELS).entries()
