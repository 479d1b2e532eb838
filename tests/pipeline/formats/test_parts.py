from __future__ import annotations

import logging

import pytest

from models.labels import VOC
from pipeline.base.errors import DataError
from pipeline.formats.parts import parts_of
from pipeline.tables.rows import read_columns
from pipeline.tables.shards import list_shards
from tests.pipeline.formats.fabricated import save_rows, save_set


def ids(parts):
    return [name for part in parts for name in read_columns(part.shard)["pair_id"].take(part.rows).to_pylist()]


def shards(*folders):
    return [path for folder in folders for path in list_shards(str(folder))]


def test_every_pair_is_in_one_part_and_numbered(tmp_path):
    train, test = save_set(tmp_path / "a", VOC, 5), save_set(tmp_path / "b", VOC, 3)

    parts = parts_of({"train": shards(tmp_path / "a"), "test": shards(tmp_path / "b")})

    assert sorted(ids(parts)) == sorted([*train.rows, *test.rows])
    assert [(part.split, part.index, part.total) for part in parts] == [
        ("train", 0, 2), ("train", 1, 2), ("test", 0, 2), ("test", 1, 2),
    ]  # fmt: skip
    numbers = [number for part in parts for number in range(part.first, part.first + len(part.rows))]
    assert numbers == list(range(1, 9))


def test_the_first_of_a_doubled_pair_counts(tmp_path):
    made = save_set(tmp_path / "a", VOC, 5)
    save_rows(list(made.rows.values())[:3], tmp_path / "again")

    parts = parts_of({"train": shards(tmp_path / "a", tmp_path / "again")})

    assert sorted(ids(parts)) == sorted(made.rows)
    assert all("/a/" in part.shard for part in parts)


def test_a_pair_in_two_splits_is_refused(tmp_path):
    made = save_set(tmp_path / "a", VOC, 5)
    save_rows(list(made.rows.values())[2:3], tmp_path / "b")

    with pytest.raises(DataError, match=f"1 pairs of train are in test too, the first is {list(made.rows)[2]}"):
        parts_of({"train": shards(tmp_path / "a"), "test": shards(tmp_path / "b")})


def test_pairs_are_chosen_by_content(tmp_path):
    made = save_set(tmp_path / "a", VOC, 12)
    save_rows(list(made.rows.values()), tmp_path / "one")  # the same pairs in one shard

    chosen = [ids(parts_of({"train": shards(tmp_path / name)}, pairs=4)) for name in ("a", "one")]

    assert sorted(chosen[0]) == sorted(chosen[1]) == sorted(made.rows)[:4]
    assert len(ids(parts_of({"train": shards(tmp_path / "one")}, pairs=100))) == 12


def test_real_pairs_have_no_confidence_and_stay(tmp_path):
    made = save_set(tmp_path / "a", VOC, 5)

    assert sorted(ids(parts_of({"train": shards(tmp_path / "a")}, min_confidence=0.75))) == sorted(made.rows)
    assert sorted(ids(parts_of({"train": shards(tmp_path / "a")}, min_confidence=0.8))) == sorted(list(made.rows)[:4])

    low = save_set(tmp_path / "low", VOC, 3, confidence_mean=0.1, origin="synthetic")
    with pytest.raises(DataError, match=f"test: none of its {len(low.rows)} pairs is left"):
        parts_of({"test": shards(tmp_path / "low")}, min_confidence=0.5)


def test_labelled_pairs_stay_however_unsure_their_teacher_was(tmp_path):
    row = next(iter(save_set(tmp_path / "a", VOC, 1).rows.values()))
    of = {name: {**row, "pair_id": name, "confidence_mean": 0.5} for name in ("labelled", "synthetic", "real")}
    save_rows([{**one, "origin": origin} for origin, one in of.items()], tmp_path / "b")

    assert sorted(ids(parts_of({"train": shards(tmp_path / "b")}, min_confidence=0.8))) == ["labelled", "real"]


@pytest.mark.parametrize("name", ["../../up", "a.b", "", "a\nb"])
def test_an_id_that_cannot_name_a_file_is_refused(tmp_path, name):
    rows = list(save_set(tmp_path / "a", VOC, 2).rows.values())
    save_rows([{**rows[0], "pair_id": name}], tmp_path / "b")

    with pytest.raises(DataError, match="cannot name a file"):
        parts_of({"train": shards(tmp_path / "a", tmp_path / "b")})


def test_pictures_without_masks_are_left_out_and_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jodiffusion"), "propagate", True)
    made = save_set(tmp_path / "a", VOC, 4)
    bare = {"mask": b"", "class_ids": [], "class_pixels": [], "origin": "real"}
    save_rows(
        [{**row, **bare, "pair_id": f"bare-{place}"} for place, row in enumerate(made.rows.values())], tmp_path / "b"
    )

    parts = parts_of({"train": shards(tmp_path / "a", tmp_path / "b")})

    assert sorted(ids(parts)) == sorted(made.rows)
    assert "train: 4 of 8 pictures have no masks and are left out" in caplog.text
    with pytest.raises(DataError, match="none of its 0 pairs is left"):
        parts_of({"train": shards(tmp_path / "b")})
