"""Sets that are used together must mean the same by their numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.storage.publish import write_bytes
from pipeline.tables.label_space import LABELS, common_labels, load_labels

SPACE = LabelSpace.custom("animals", ("cat", "dog"))


def save(folder: Path, labels: LabelSpace) -> str:
    folder.mkdir()
    labels.save(folder / LABELS)
    return str(folder)


def test_the_label_space_of_a_run_comes_back(tmp_path: Path) -> None:
    assert load_labels(save(tmp_path / "run", SPACE) + "/") == SPACE
    fsspec.filesystem("memory").store.clear()
    write_bytes(f"memory://bucket/run/{LABELS}", SPACE.to_json().encode())
    assert load_labels("memory://bucket/run") == SPACE


def test_a_run_without_one_says_which_folders_have_one(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=f"{tmp_path}/{LABELS}: missing.*give the folder of an ingest or a generate run"
    ):
        load_labels(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "animals"}', "\udcff"])
def test_a_file_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / LABELS).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=f"{tmp_path}/{LABELS}: not a label space .* copy it again"):
        load_labels(str(tmp_path))


def test_names_and_colours_may_differ_where_numbers_mean_the_same(tmp_path: Path) -> None:
    folders = [save(tmp_path / "a", SPACE), save(tmp_path / "b", replace(SPACE, name="other"))]
    assert common_labels(folders) == SPACE
    assert common_labels(folders[:1]) == SPACE


@pytest.mark.parametrize(
    "other",
    [
        LabelSpace.custom("swapped", ("dog", "cat")),
        LabelSpace.custom("more", ("cat", "dog", "horse")),
        replace(SPACE, ignore_index=254),
        replace(SPACE, zero="other"),
    ],
)
def test_numbers_that_mean_two_things_are_refused(tmp_path: Path, other: LabelSpace) -> None:
    folders = [save(tmp_path / "a", SPACE), save(tmp_path / "b", SPACE), save(tmp_path / "c", other)]
    with pytest.raises(DataError, match=f"{tmp_path}/c has the classes of .* one number would mean two things"):
        common_labels(folders)
