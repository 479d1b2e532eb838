"""Cityscapes: label ids become the 19 evaluated classes and void."""

from __future__ import annotations

import logging

import numpy as np

from models.labels import LabelSpace
from pipeline.datasets.cityscapes import Cityscapes
from tests.pipeline.datasets.trees import picture, read_all, save_mask, save_picture


def test_label_ids_become_classes_by_name_and_all_else_is_void(tmp_path):
    raw = np.array([[7, 8, 24, 33], [26, 0, 29, 4]], np.uint8)
    for city, frame in (("aachen", "000000_000019"), ("ulm", "000001_000019")):
        stem = f"{city}/{city}_{frame}"
        save_picture(tmp_path / "leftImg8bit/train" / f"{stem}_leftImg8bit.png", picture(0, 4, 2))
        save_mask(tmp_path / "gtFine/train" / f"{stem}_gtFine_labelIds.png", raw)
        save_picture(tmp_path / "gtFine/train" / f"{stem}_gtFine_color.png")

    pairs = read_all(Cityscapes(str(tmp_path), "train"))

    assert sorted(pairs) == ["aachen/aachen_000000_000019", "ulm/ulm_000001_000019"]
    names = LabelSpace.named("cityscapes").classes
    mask = pairs["ulm/ulm_000001_000019"]["mask"]
    assert [names[value] for value in mask[0]] == ["road", "sidewalk", "person", "bicycle"]
    assert names[mask[1, 0]] == "car" and mask[1, 1:].tolist() == [255, 255, 255]


def test_pictures_of_other_names_are_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jodiffusion"), "propagate", True)
    for name in ("a_leftImg8bit.png", "b.png"):
        save_picture(tmp_path / "leftImg8bit/train/ulm" / name)

    assert Cityscapes(str(tmp_path), "train").entries()["key"].to_pylist() == ["ulm/a"]
    assert "1 pictures whose names do not end in _leftImg8bit were passed over, such as" in caplog.text
