"""Runs as one lazy Ray data set, whatever release made them and wherever they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.base.errors import ShardError
from pipeline.reader import read_pairs
from pipeline.tables.rows import read_ids
from pipeline.tables.selection import write_selection
from pipeline.tables.shards import list_shards
from tests.tiny import save_pairs


@pytest.mark.ray
def test_all_rows_of_all_runs_come_with_the_columns_that_are_asked_for(tmp_path, ray_session):
    for name, split, num in (("new", "train", 5), ("old", "test", 3)):
        save_pairs(tmp_path / name, num, split)
    for shard in list_shards(str(tmp_path / "old")):  # an older release wrote fewer columns
        pq.write_table(pq.read_table(shard).drop_columns(["captions"]), shard)

    rows = read_pairs([str(tmp_path / "new"), str(tmp_path / "old")], ["pair_id", "captions"]).take_all()

    expected = [pq.read_table(tmp_path / name / "shards", columns=["pair_id"])["pair_id"] for name in ("new", "old")]
    assert sorted(row["pair_id"] for row in rows) == sorted(one for part in expected for one in part.to_pylist())
    assert all(set(row) <= {"pair_id", "captions"} and not row.get("captions") for row in rows)


@pytest.mark.ray
def test_of_a_selection_too_only_the_columns_that_are_asked_for_come(tmp_path, ray_session):
    pairs, other = (str(save_pairs(tmp_path / name, 3, name)) for name in ("train", "test"))
    ids = sorted(read_ids(pairs).to_pylist())
    reasons = pa.array([None, "dark", None], pa.string())
    write_selection(str(tmp_path / "chosen"), pairs, pa.table({"pair_id": ids, "reason": reasons}))

    rows = read_pairs([str(tmp_path / "chosen"), other], ["key", "prompt"]).take_all()

    assert len(rows) == 5 and {tuple(row) for row in rows} == {("key", "prompt")}


@pytest.mark.ray
@pytest.mark.parametrize("older", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("columns", [["pair_id", "key"], None], ids=["some", "all"])
def test_shards_of_one_run_that_two_releases_wrote_lose_no_column(tmp_path, ray_session, older, columns):
    save_pairs(tmp_path, 4)
    shards = list_shards(str(tmp_path))
    keys = {row["pair_id"]: row["key"] for one in shards for row in pq.read_table(one).to_pylist()}
    of_older = pq.read_table(shards[older])
    pq.write_table(of_older.drop_columns(["key"]), shards[older])

    rows = read_pairs([str(tmp_path)], columns).take_all()

    known = {row["pair_id"]: row.get("key") for row in rows}
    assert len(shards) == 2 and all(keys.values())
    assert known == keys | dict.fromkeys(of_older["pair_id"].to_pylist())


def test_a_folder_without_shards_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no shards in .*nowhere"):
        read_pairs([str(tmp_path / "nowhere")])
