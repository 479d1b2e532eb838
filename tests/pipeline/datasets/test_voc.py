"""Pascal VOC 2012 and SBD as they lie on disk."""

from __future__ import annotations

import logging

import fsspec
import numpy as np
import pytest

from pipeline.base.errors import DataError
from pipeline.datasets.voc import PascalVOC
from tests.pipeline.datasets.trees import (
    mask_of,
    read_all,
    save_colour_mask,
    save_json,
    save_lines,
    save_mask,
    save_picture,
    save_sbd_mask,
    save_voc,
)


@pytest.fixture
def tree(tmp_path):
    return save_voc(tmp_path)


def trainaug(tree, **settings):
    sbd = str(tree.parent / "VOCaug" / "dataset")
    return PascalVOC(str(tree), **{"split": "trainaug", "sbd": sbd, **settings})


def test_trainaug_is_voc_and_sbd_without_validation_in_a_stable_order(tree, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jodiffusion"), "propagate", True)
    keys = trainaug(tree).entries()["key"].to_pylist()

    assert keys == ["2007_000001", "2008_000002", "2008_000003", "2008_000004"]
    assert "4 pictures here, the published lists have 10582" in caplog.text


def test_a_list_of_trainaug_goes_before_the_rule(tree):
    save_lines(tree / "VOC2012/ImageSets/Segmentation/trainaug.txt", ["2008_000003", "2007_000001"])

    assert PascalVOC(str(tree), "trainaug").entries()["key"].to_pylist() == ["2007_000001", "2008_000003"]


def test_masks_come_from_sbd_where_it_has_one_and_from_voc_otherwise(tree):
    pairs = read_all(trainaug(tree))

    assert not any(row["error"] for row in pairs.values())
    np.testing.assert_array_equal(pairs["2007_000001"]["mask"], mask_of(1, border=255), "in VOC alone, a palette PNG")
    np.testing.assert_array_equal(pairs["2008_000002"]["mask"], mask_of(2), "in SBD alone, a MATLAB file")
    np.testing.assert_array_equal(pairs["2008_000003"]["mask"], mask_of(13), "in both")
    assert pairs["2007_000001"]["mask"].shape == (6, 10)
    assert pairs["2007_000001"]["class_ids"].tolist() == [0, 1, 255]
    assert pairs["2007_000001"]["class_pixels"].tolist() == [36, 8, 16]


def test_converted_masks_of_sbd_do_too(tree):
    save_mask(tree / "VOC2012/SegmentationClassAug/2008_000003.png", mask_of(7))

    pairs = read_all(PascalVOC(str(tree), "train"))

    np.testing.assert_array_equal(pairs["2008_000003"]["mask"], mask_of(7))
    np.testing.assert_array_equal(pairs["2007_000001"]["mask"], mask_of(1, border=255))


def test_a_stem_in_the_converted_masks_alone_has_its_mask_there(tree):
    (tree.parent / "VOCaug/dataset/cls/2008_000002.mat").unlink()
    save_mask(tree / "VOC2012/SegmentationClassAug/2008_000002.png", mask_of(6))

    np.testing.assert_array_equal(read_all(trainaug(tree))["2008_000002"]["mask"], mask_of(6))


@pytest.mark.parametrize("converted", [False, True])
def test_validation_pictures_keep_vocs_own_masks(tree, converted):
    if converted:
        save_mask(tree / "VOC2012/SegmentationClassAug/2007_000009.png", mask_of(19))

    row = read_all(trainaug(tree, split="val"))["2007_000009"]

    np.testing.assert_array_equal(row["mask"], mask_of(9, border=255), "not SBD's, which says 19")


def test_pictures_without_masks_are_counted_before_they_are_read(tree, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jodiffusion"), "propagate", True)
    save_lines(tree / "VOC2012/ImageSets/Segmentation/trainaug.txt", ["2007_000001", "2008_000002"])

    pairs = read_all(PascalVOC(str(tree), "trainaug"))

    assert "1 of 2 pictures have no mask, 2008_000002 for one; masks of SBD come with the key `sbd`" in caplog.text
    assert pairs["2008_000002"]["error"] == "missing_file"


def test_a_tree_on_a_store_is_read_as_one_on_a_disk(tree):
    store = fsspec.filesystem("memory")
    store.put(f"{tree}/VOC2012/", "/voc-tree/", recursive=True)
    try:
        pairs = read_all(PascalVOC("memory://voc-tree", "train"))
    finally:
        store.rm("/voc-tree", recursive=True)

    assert not any(row["error"] for row in pairs.values())
    np.testing.assert_array_equal(pairs["2007_000001"]["mask"], mask_of(1, border=255))


def test_a_stem_with_a_trailing_blank_is_the_same_stem(tree):
    assert set(read_all(PascalVOC(str(tree), "train"))) == {"2007_000001", "2008_000003"}


def test_void_can_become_background_as_in_the_papers_code(tree):
    row = read_all(PascalVOC(str(tree), "train"), void="background")["2007_000001"]

    np.testing.assert_array_equal(row["mask"], mask_of(1))


def test_a_mask_of_colours_is_refused_with_the_reason_and_the_others_are_read(tree):
    save_colour_mask(tree / "VOC2012/SegmentationClass/2007_000001.png")

    pairs = read_all(PascalVOC(str(tree), "train"))

    assert pairs["2007_000001"]["error"] == "wrong_mask"
    assert "mode RGB" in pairs["2007_000001"]["error_detail"] and "class id" in pairs["2007_000001"]["error_detail"]
    assert not pairs["2008_000003"]["error"]


def test_a_damaged_mat_file_is_an_error_of_its_row(tree):
    mat = tree.parent / "VOCaug/dataset/cls/2008_000002.mat"
    mat.write_bytes(mat.read_bytes()[:150])

    row = read_all(trainaug(tree))["2008_000002"]

    assert row["error"] == "undecodable_input" and "2008_000002.mat: not a MATLAB file" in row["error_detail"]


@pytest.mark.parametrize("value", [-1, 65536 + 5])
def test_values_that_are_no_ids_are_never_turned_into_some(tree, value):
    save_sbd_mask(tree.parent / "VOCaug/dataset/cls/2008_000002.mat", mask_of(1).astype(np.int32) * value)
    save_sbd_mask(tree.parent / "VOCaug/dataset/cls/2008_000004.mat", np.zeros((2, 0), np.int32))

    pairs = read_all(trainaug(tree))

    for key in ("2008_000002", "2008_000004"):
        assert pairs[key]["error"] == "wrong_mask", key
    assert "holds values that are no class ids" in pairs["2008_000002"]["error_detail"]


def test_captions_that_the_papers_scripts_wrote_are_taken(tree):
    save_json(tree / "VOC2012/ImageSets/Caption/train.json", {"2007_000001": "a plane"})

    pairs = read_all(PascalVOC(str(tree), "train"))

    assert (pairs["2007_000001"]["prompt"], pairs["2007_000001"]["captions"]) == ("a plane", ["a plane"])
    assert (pairs["2008_000003"]["prompt"], pairs["2008_000003"]["captions"]) == ("", [])


@pytest.mark.parametrize(
    "line",
    [
        "my photo 1",
        "my photo 1.jpg",
        "JPEGImages/my photo 1.jpg",
        "2007_000001",
        "2007_000001.jpg",
        "2007_000001 -1",
        "2007_000001.jpg 2007_000001.png",
        "/JPEGImages/2007_000001.jpg /SegmentationClass/2007_000001.png",
    ],
)
def test_lists_may_say_more_than_a_name(tree, line):
    save_picture(tree / "VOC2012/JPEGImages/my photo 1.jpg")
    save_mask(tree / "VOC2012/SegmentationClass/my photo 1.png", mask_of(1))
    save_lines(tree / "VOC2012/ImageSets/Segmentation/own.txt", [line])

    ((key, row),) = read_all(PascalVOC(str(tree), "own")).items()

    assert key == ("my photo 1" if "my" in line else "2007_000001") and not row["error"]


def test_a_line_that_names_no_picture_is_a_row_of_its_first_word(tree):
    save_lines(tree / "VOC2012/ImageSets/Segmentation/own.txt", ["2007_000001", "2007_777777 1"])

    pairs = read_all(PascalVOC(str(tree), "own"))

    assert pairs["2007_777777"]["error"] == "missing_file" and not pairs["2007_000001"]["error"]


@pytest.mark.parametrize("below", ["", "VOC2012", ".."])
def test_the_root_may_be_any_folder_around_it(tree, below):
    assert PascalVOC(str(tree / below), "val").entries()["key"].to_pylist() == ["2007_000009"]


def test_what_is_not_there_is_told(tree, tmp_path):
    with pytest.raises(DataError, match="no folder JPEGImages"):
        PascalVOC(str(tmp_path / "nothing"), "train").entries()
    with pytest.raises(DataError, match="test.txt: missing; it lists the pictures of the split 'test'"):
        PascalVOC(str(tree), "test").entries()
    with pytest.raises(DataError, match="the key `sbd` must name"):
        PascalVOC(str(tree), "trainaug").entries()


def test_pictures_that_no_list_of_segmentation_names_are_read_without_masks(tree):
    voc = tree / "VOC2012"
    for stem in ("2009_000010", "2009_000011"):
        save_picture(voc / f"JPEGImages/{stem}.jpg")
    save_lines(voc / "ImageSets/Main/trainval.txt", ["2009_000010", "2007_000009", "2007_000001"])

    unlabelled = read_all(trainaug(tree, split="unlabelled", labelled="none"))
    without_sbd = PascalVOC(str(tree), "unlabelled", labelled="some").entries()["key"].to_pylist()
    main = read_all(PascalVOC(str(tree), "trainval", labelled="some"))

    assert list(unlabelled) == ["2009_000010", "2009_000011"]
    assert not any(row["error"] or row["mask"] for row in unlabelled.values())
    assert without_sbd == ["2008_000002", "2008_000004", "2009_000010", "2009_000011"]
    assert {key: row["mask"] is None for key, row in main.items()} == {"2007_000001": False, "2009_000010": True}, (
        "validation pictures stay out of other lists"
    )
    for split in ("unlabelled", "trainval"):
        with pytest.raises(DataError, match=f"{split} of VOC has pictures without masks; say --labelled none"):
            PascalVOC(str(tree), split).entries()
