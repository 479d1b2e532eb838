"""Hugging Face data sets on disk; those of the hub come through the same library."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.datasets.hugging_face import HuggingFace
from tests.pipeline.datasets.trees import mask_of, picture, read_all

LABELS = LabelSpace.named("ade20k")


@pytest.fixture
def rows():
    features = datasets.Features(
        {"pixels": datasets.Image(), "annotation": datasets.Image(), "text": datasets.Value("string")}
    )
    pairs = {
        "pixels": [Image.fromarray(picture(seed)) for seed in range(3)],
        "annotation": [Image.fromarray(mask_of(10 + seed)) for seed in range(3)],
        "text": ["a wall", None, " "],
    }
    return datasets.Dataset.from_dict(pairs, features=features)


def opened(folder, split="train", **names):
    return HuggingFace(
        str(folder), split, LABELS, **{"image": "pixels", "mask": "annotation", "caption": "text", **names}
    )


@pytest.mark.parametrize("form", ["save_to_disk", "save_to_disk_with_splits", "parquet"])
def test_every_form_on_disk(rows, tmp_path, monkeypatch, form):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    if form == "save_to_disk":
        rows.save_to_disk(folder)
    elif form == "parquet":
        folder.mkdir()
        rows.to_parquet(folder / "train.parquet")
    else:
        datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(folder)

    pairs = read_all(opened(folder))

    assert sorted(pairs) == ["0", "1", "2"]
    np.testing.assert_array_equal(pairs["1"]["image"], picture(1))
    np.testing.assert_array_equal(pairs["1"]["mask"], mask_of(11))
    assert [pairs[key]["captions"] for key in "012"] == [["a wall"], [], []]


def test_what_is_not_there_is_told(rows, tmp_path):
    rows.save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="has no column image, only pixels, annotation, text; correct `columns.image`"):
        opened(tmp_path / "set", image="image").entries()
    with pytest.raises(DataError, match="cannot be opened"):
        opened(tmp_path / "nothing").entries()
    datasets.Dataset.from_dict(rows[:], features=rows.features, split="test").save_to_disk(tmp_path / "test")
    with pytest.raises(DataError, match="it is the split 'test'"):
        opened(tmp_path / "test").entries()


def test_lists_of_captions_may_hold_nothing(tmp_path):
    pairs = {"pixels": [Image.fromarray(picture())], "annotation": [Image.fromarray(mask_of(1))]}
    datasets.Dataset.from_dict({**pairs, "text": [["a wall", None, ""]]}).save_to_disk(tmp_path / "set")

    assert read_all(opened(tmp_path / "set"))["0"]["captions"] == ["a wall"]


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("text", [{"text": "a wall"}], "the column text holds struct<text: string>, not texts or lists of texts"),
        ("text", [[{"raw": "a wall"}]], r"the column text holds list<.*struct<raw: string>>, not texts"),
        ("text", [7], "the column text holds int64, not texts or lists of texts; .* `columns.caption`"),
        ("text", [[["a wall"]]], "the column text holds list<.*, not texts"),
        ("annotation", [1], "the column annotation holds int64, not pictures; name another in `columns.mask`"),
        ("pixels", [0.5], "the column pixels holds double, not pictures; name another in `columns.image`"),
        ("annotation", [{"segments": "a"}], "the column annotation holds struct<segments: string>, not pictures"),
    ],
)
def test_a_column_of_something_else_says_what_it_holds(tmp_path, column, values, told):
    pairs = {"pixels": [Image.fromarray(picture())], "annotation": [Image.fromarray(mask_of(1))], "text": ["a wall"]}
    datasets.Dataset.from_dict({**pairs, column: values}).save_to_disk(tmp_path / "set")

    with pytest.raises(DataError, match=told):
        opened(tmp_path / "set").entries()


def test_a_column_of_captions_may_be_empty_throughout(tmp_path):
    pairs = {"pixels": [Image.fromarray(picture())], "annotation": [Image.fromarray(mask_of(1))], "text": [None]}
    datasets.Dataset.from_dict(pairs).save_to_disk(tmp_path / "set")

    assert read_all(opened(tmp_path / "set"))["0"]["captions"] == []


def test_rows_without_masks_are_pictures_alone_where_that_is_asked_for(rows, tmp_path):
    masks = [Image.fromarray(mask_of(1)), None, None]
    features = datasets.Features({"pixels": datasets.Image(), "annotation": datasets.Image()})
    datasets.Dataset.from_dict({"pixels": rows["pixels"], "annotation": masks}, features=features).save_to_disk(
        tmp_path / "some"
    )
    rows.remove_columns("annotation").save_to_disk(tmp_path / "none")

    strict = read_all(opened(tmp_path / "some", caption=""))
    some = read_all(opened(tmp_path / "some", caption="", labelled="some"))
    none = read_all(opened(tmp_path / "none", labelled="none"))

    assert opened(tmp_path / "some", caption="", labelled="some").entries()["mask"].to_pylist() == ["0", "", ""]
    assert [row["error"] for row in strict.values()] == ["", "missing_file", "missing_file"]
    assert [row["mask"] is None for row in some.values()] == [False, True, True]
    assert [row["mask"] for row in none.values()] == [None] * 3 and none["0"]["captions"] == ["a wall"]
    assert not any(row["error"] for row in (*some.values(), *none.values()))
