"""What a folder of one's own seems to hold."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.base.errors import DataError, MaskError
from pipeline.datasets.guess import guess, usual_suffix, values_in
from tests.pipeline.datasets.test_labelme import save as save_labelme
from tests.pipeline.datasets.test_yolo import save as save_yolo
from tests.pipeline.datasets.trees import mask_of, save_json, save_mask, save_picture


def test_pictures_and_masks_in_folders_of_usual_names(tmp_path):
    save_picture(tmp_path / "JPEGImages/a.jpg")
    for name in ("a_seg", "of nothing"):
        save_mask(tmp_path / f"SegmentationClass/{name}.png", mask_of(1))

    found = guess(str(tmp_path))

    assert (found.dataset, found.num_pictures, found.num_masks) == ("folder", 1, 1)
    assert found.keys["folder_layout"] == {
        "images": "JPEGImages", "masks": "SegmentationClass", "mask_suffix": "_seg",
    }  # fmt: skip


def test_pictures_and_masks_anywhere(tmp_path):
    save_picture(tmp_path / "x/photos/a.jpg")
    save_mask(tmp_path / "y/a.png", mask_of(1))

    found = guess("", str(tmp_path / "x/photos"), str(tmp_path / "y"))

    (tmp_path / "images").mkdir()
    given = guess(str(tmp_path), images=str(tmp_path / "x/photos"), masks=str(tmp_path / "y"))
    (tmp_path / "masks").mkdir()
    save_mask(tmp_path / "masks/a.png", mask_of(1))
    one = guess(str(tmp_path), images=str(tmp_path / "x/photos"))
    assert given.keys == found.keys and one.keys["folder_layout"]["images"] == "x/photos"
    assert found.root == str(tmp_path) and found.keys["folder_layout"]["images"] == "x/photos"


@pytest.mark.parametrize(("mask", "suffix"), [("x/masks/a.png", ""), ("x/a_mask.png", "_mask")])
def test_masks_among_the_pictures(tmp_path, mask, suffix):
    save_picture(tmp_path / "x/a.png")
    save_mask(tmp_path / mask, mask_of(3))

    found = guess("", str(tmp_path / "x"), str((tmp_path / mask).parent))

    assert (found.num_pictures, found.num_masks, found.keys["folder_layout"]["mask_suffix"]) == (1, 1, suffix)
    assert values_in(found.root, found.keys["folder_layout"]) == ({0: 52, 3: 8}, {})


def test_labelme_and_yolo_are_known(tmp_path):
    save_labelme(tmp_path / "one", "a", [])
    save_yolo(tmp_path / "two")

    save_json(tmp_path / "one/_captions.json", {"a": "a street"})
    (tmp_path / "one/_notes.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert guess(str(tmp_path / "one")).dataset == "labelme"
    found = guess(str(tmp_path / "two"))
    assert (found.dataset, found.splits, found.num_pictures, found.num_masks) == ("yolo", ("train",), 1, 1)


def test_what_is_not_known_is_told(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        guess(str(tmp_path / "nowhere"))
    save_picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="say --images and --masks"):
        guess(str(tmp_path))
    (tmp_path / "data.yaml").write_text("names: [a\ntrain: x: y")
    with pytest.raises(DataError, match="data.yaml: not valid YAML"):
        guess(str(tmp_path))
    (tmp_path / "data.yaml").unlink()
    save_json(tmp_path / "annotations/instances_x.json", {"images": [], "annotations": [], "categories": []})
    with pytest.raises(DataError, match="--dataset coco"):
        guess(str(tmp_path))


def test_suffixes_are_what_most_masks_have():
    assert usual_suffix(["a", "ab", "c.d"], ["a_m", "ab_m", "c.d_m"]) == "_m"
    assert usual_suffix(["a"], ["a"]) == usual_suffix(["a"], ["x"]) == ""


def test_values_and_colours_in_masks(tmp_path):
    save_mask(tmp_path / "masks/a.png", mask_of(3))
    assert values_in(str(tmp_path), {"masks": "masks"}) == ({0: 52, 3: 8}, {})

    save_picture(tmp_path / "colours/a.png", np.dstack([mask_of(9)] * 3))
    assert values_in(str(tmp_path), {"masks": "colours"})[1] == {"#000000": 52, "#090909": 8}

    save_picture(tmp_path / "masks/b.png", np.dstack([mask_of(9)] * 3))
    with pytest.raises(MaskError, match="make them alike"):
        values_in(str(tmp_path), {"masks": "masks"})
