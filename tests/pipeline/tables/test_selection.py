"""A selection stands for the pairs that it keeps wherever pairs are read, and nothing else reads it as a run."""

from __future__ import annotations

import pyarrow as pa
import pytest

from models.labels import GARMENTS
from pipeline.base.errors import ShardError
from pipeline.compact import CompactConfig, compact
from pipeline.formats.parts import parts_of
from pipeline.pages.report_page import render
from pipeline.reader.pair_dataset import PairDataset
from pipeline.regenerate import find_row
from pipeline.tables.digest import DataDigest
from pipeline.tables.rows import read_ids, read_keys, read_shards, read_texts
from pipeline.tables.selection import FILE, view_of, write_selection
from pipeline.tables.shards import list_shards, some_shards
from pipeline.training.order import groups_of, ids_of
from pipeline.training.sets import Labels, TrainingSet, is_synthetic, pictures_of
from tests.tiny import save_pairs


@pytest.fixture
def chosen(tmp_path):
    """Twelve pairs in two shards, two of them without masks, and a selection that leaves every third out."""
    pairs = str(save_pairs(tmp_path / "pairs", 12, num_shards=2, num_labelled=10))
    ids = sorted(read_ids(pairs).to_pylist())
    reasons = [None if place % 3 else "dark" for place in range(12)]
    folder = str(tmp_path / "chosen")
    write_selection(folder, pairs, pa.table({"pair_id": ids, "reason": pa.array(reasons, pa.string())}))
    GARMENTS.save(tmp_path / "chosen" / "label_space.json")
    return folder, pairs, [one for one, reason in zip(ids, reasons, strict=True) if reason is None]


def test_rows_are_those_that_it_keeps(chosen):
    folder, pairs, kept = chosen
    assert view_of(pairs).kept is None and view_of(folder).folder == pairs
    assert sorted(read_shards([folder], ["pair_id"])["pair_id"].to_pylist()) == kept
    rows = read_shards([folder, pairs], ["prompt"])
    assert rows.column_names == ["prompt"] and rows.num_rows == 8 + 12
    assert read_texts([folder])["pair_id"].to_pylist() == kept == ids_of(folder)


def test_trainings_and_loaders_take_those_alone(chosen):
    folder, pairs, kept = chosen
    bare = set(ids_of(pairs, which="unlabelled"))
    usable = [one for one in kept if one not in bare]
    assert sorted(example["pair_id"] for example in PairDataset(folder)) == usable
    assert len(PairDataset(folder, pairs)) == len(usable) + 10
    assert sum(len(group.rows) for group in groups_of([folder], labelled=True)) == len(usable)
    taken = [(group.path, group.number, row) for group in groups_of([folder], ["2:5"]) for row in group.rows.tolist()]
    wanted = set(kept[2:5])
    there = {(path, row): one for path in list_shards(pairs) for row, one in enumerate(read_shard_ids(path))}
    assert {there[path, row] for path, _, row in taken} == wanted and ids_of(folder, "2:5") == kept[2:5]
    with pytest.raises(ShardError, match="asks for more than its 8 pairs"):
        groups_of([folder], ["0:9"])
    assert TrainingSet(train=(folder,)).sizes() == [len(usable)]
    assert Labels.of(folder).ids == frozenset(usable) and not is_synthetic(folder)
    assert len(pictures_of(folder)) == 8


def render_of(folder: str) -> str:
    return render("a", folder)


def read_shard_ids(path: str) -> list[str]:
    return read_keys(path).to_pylist()


def test_exports_leave_the_others_out_and_digests_tell_selections_apart(chosen, tmp_path):
    folder, pairs, kept = chosen
    view = view_of(folder)
    parts = parts_of({"train": list_shards(pairs)}, {"train": [view, view]})
    assert sum(len(part.rows) for part in parts) == len(set(kept) - set(ids_of(pairs, which="unlabelled")))
    other = str(tmp_path / "other")
    rows = pa.table({"pair_id": kept, "reason": pa.nulls(len(kept), pa.string())})
    write_selection(other, pairs, rows.slice(1))
    assert len({DataDigest.of(one).digest for one in (folder, pairs, other)}) == 3


def test_what_knows_no_selections_finds_no_shards_and_a_broken_one_is_told(chosen, tmp_path):
    folder, _, _ = chosen
    for reads in (
        some_shards,
        lambda one: find_row(one, "a"),
        lambda one: compact(CompactConfig(pairs=one)),
        render_of,
    ):
        with pytest.raises(ShardError, match="chosen is a selection; here the run is needed .*/pairs$"):
            reads(folder)
    (tmp_path / "chosen" / FILE).write_bytes(b"damaged")
    with pytest.raises(ShardError, match="not a selection .*jobs.curate"):
        view_of(folder)
