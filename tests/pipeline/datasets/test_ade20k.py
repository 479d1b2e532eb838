"""ADE20K as its benchmark lays it out."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.base.errors import DataError
from pipeline.datasets.ade20k import ADE20K
from tests.pipeline.datasets.trees import mask_of, picture, read_all, save_json, save_mask, save_picture


@pytest.fixture
def tree(tmp_path):
    """Five pictures, the third of which has no mask."""
    root = tmp_path / "ADEChallengeData2016"
    for number in range(1, 6):
        stem = f"ADE_train_0000000{number}"
        save_picture(root / "images/training" / f"{stem}.jpg", picture(number))
        if number != 3:
            save_mask(root / "annotations/training" / f"{stem}.png", mask_of(30 * number))
    return root


def test_a_missing_mask_is_an_error_of_its_row_and_shifts_no_other(tree):
    pairs = read_all(ADE20K(str(tree), "training"))

    missing = pairs.pop("ADE_train_00000003")
    assert missing["error"] == "missing_file" and "ADE_train_00000003.png: no such mask" in missing["error_detail"]
    for key, row in pairs.items():
        number = int(key[-1])
        np.testing.assert_array_equal(row["mask"], mask_of(30 * number))
        assert abs(int(row["image"][0, 0, 0]) - number) <= 2, "the picture of the same number"


def test_a_value_above_150_is_refused(tree):
    save_mask(tree / "annotations/training/ADE_train_00000002.png", mask_of(151))

    row = read_all(ADE20K(str(tree), "train"))["ADE_train_00000002"]

    assert (
        row["error"] == "wrong_mask" and "holds 151; label space 'ade20k' has class ids 0 to 150" in row["error_detail"]
    )


def test_a_mask_of_nothing_but_other_is_read(tree):
    save_mask(tree / "annotations/training/ADE_train_00000001.png", np.zeros((6, 10), np.uint8))

    assert read_all(ADE20K(str(tree), "train"))["ADE_train_00000001"]["class_ids"].tolist() == [0]


def test_files_that_are_no_pictures_are_not_taken_for_pairs(tree):
    for folder in ("images/training", "annotations/training"):
        (tree / folder / ".DS_Store").write_bytes(b"\0")
        (tree / folder / "._ADE_train_00000001.jpg").write_bytes(b"\0")
        (tree / folder / "index.txt").write_text("")

    assert len(ADE20K(str(tree), "training").entries()) == 5


def test_captions_by_file_name_and_the_folder_above(tree):
    save_json(tree / "annotations_caption/training.json", {"ADE_train_00000001.jpg": "a room"})

    pairs = read_all(ADE20K(str(tree.parent), "train"))

    assert pairs["ADE_train_00000001"]["prompt"] == "a room"


def test_what_is_not_there_is_told(tree):
    with pytest.raises(DataError, match="no folder images/validation here or in ADEChallengeData2016"):
        ADE20K(str(tree), "val").entries()
