"""Croissant says which files, fields and classes a set has."""

from __future__ import annotations

import json

import pytest

from models.labels import VOC, LabelSpace
from pipeline.formats.croissant import croissant


@pytest.mark.parametrize("labels", [VOC, LabelSpace.named("ade20k")])
def test_classes_ignore_index_and_files_are_there(labels):
    facts = json.loads(json.dumps(croissant("Shapes", ["train", "test"], labels)))

    classes, train, test = facts["recordSet"]
    names = {row["classes/id"]: row["classes/name"] for row in classes["data"]}
    assert names == {**dict(enumerate(labels.classes)), labels.ignore_index: "(ignored)"}
    assert [one["includes"] for one in facts["distribution"]] == ["data/train-*.parquet", "data/test-*.parquet"]
    assert f"Ignore index {labels.ignore_index}" in facts["description"]
    assert ("0 is no class" in facts["description"]) == (labels.zero == "other")
    fields = {one["@id"]: one["source"]["extract"]["column"] for one in train["field"]}
    assert fields["train/mask"] == "mask" and test["key"] == {"@id": "test/pair_id"}
