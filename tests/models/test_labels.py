"""Label spaces are those of the data sets, and a file of one's own is read or refused with a reason."""

import numpy as np
import pytest

from models.labels import NAMES, LabelSpace, voc_palette


@pytest.mark.parametrize(
    ("name", "num_classes", "num_bits", "first", "last"),
    [
        ("voc", 20, 5, "aeroplane", "tvmonitor"),
        ("coco", 80, 7, "person", "toothbrush"),
        ("ade20k", 150, 8, "wall", "flag"),
        ("cityscapes", 19, 5, "road", "bicycle"),
        ("garments", 8, 4, "shirt", "boot"),
    ],
)
def test_built_in_label_spaces(name, num_classes, num_bits, first, last):
    labels = LabelSpace.named(name)
    assert (labels.name, labels.num_classes, labels.num_bits) == (name, num_classes, num_bits)
    assert (labels.classes[1], labels.classes[-1]) == (first, last)
    assert labels.ignore_index == 255
    assert labels.palette[0] == (0, 0, 0)
    assert labels.dtype is np.uint8


def test_spot_checks_of_ids_and_colours():
    voc, coco, ade = (LabelSpace.named(name) for name in ("voc", "coco", "ade20k"))
    assert voc.palette == voc_palette(21)
    assert voc.palette[voc.classes.index("person")] == (192, 128, 128)
    assert coco.classes[18] == "horse" and coco.palette[18] == (182, 182, 255)
    assert coco.classes.index("stop sign") == 12, "numbered without the gaps of the official ids"
    assert ade.classes[13] == "person" and ade.palette[13] == (150, 5, 61)
    assert ade.palette[150] == (92, 0, 255)


def test_a_label_space_survives_json(tmp_path):
    for name in NAMES:
        LabelSpace.named(name).save(tmp_path / "labels.json")
        assert LabelSpace.load(tmp_path / "labels.json") == LabelSpace.named(name)


def test_a_file_needs_no_more_than_a_name_and_classes(tmp_path):
    path = tmp_path / "cells.yaml"
    path.write_text("name: cells\nclasses: [background, nucleus, membrane, debris, other]\n")
    labels = LabelSpace.named(path)
    assert labels == LabelSpace.custom("cells", ("nucleus", "membrane", "debris", "other"))
    assert labels.num_bits == 3, "the reference's formula gives 2, which cannot tell 4 classes from background"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nclasses: [background, a]\ncolors: []\n", "unknown keys ['colors']"),
        ("classes: [background, a]\n", "name and classes"),
        ("name: x\nclasses: [background, no]\n", "quote words"),
        ("name: x\nclasses: [background, a, a]\n", "must be unique"),
        ("name: x\nclasses: [background, a, ' ']\n", "class 2 has no name"),
        ("name: x\nclasses: [background]\n", "at least one class"),
        ("name: x\nclasses: [background, a]\npalette: [[0, 0, 0]]\n", "2 classes but 1 colours"),
        ("name: x\nclasses: [background, a]\npalette: [[0, 0, 0], red]\n", "[R, G, B]"),
        ("name: x\nclasses: [background, a, b]\nnum_bits: 1\n", "1 bits cannot tell 2 classes apart"),
        ("name: x\nclasses: [background, a]\nignore_index: 1\n", "is the id of a class"),
        ("name: x\nclasses: [background, a]\nignore_index: '255'\n", "whole numbers"),
        ("name: x\nclasses: [background, a]\nignore_index: -1\n", "16 bits"),
        ("name: x\nclasses: [background, a]\npalette: [[0, 0, 0], [0, 0, 256]]\n", "0 to 255"),
        ("name: [x\n", "cannot read it"),
    ],
)
def test_mistakes_in_a_file_are_named(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        LabelSpace.named(path)
    assert message in str(caught.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="ade20k, cityscapes, coco, garments, voc"):
        LabelSpace.named("pascal")


def test_id_0_is_a_class_or_none_as_its_data_set_has_it():
    zero = {name: LabelSpace.named(name).zero for name in NAMES}
    assert zero == {
        "voc": "background",
        "coco": "background",
        "ade20k": "other",
        "cityscapes": "other",
        "garments": "background",
    }


def test_a_mask_as_segmenters_have_it():
    mask = np.array([[0, 3, 255]], np.uint8)
    assert LabelSpace.named("voc").as_learned(mask).tolist() == [[0, 3, 255]]
    learned = LabelSpace.named("ade20k").as_learned(mask)
    assert learned.tolist() == [[255, 3, 255]] and learned.dtype == np.uint8
