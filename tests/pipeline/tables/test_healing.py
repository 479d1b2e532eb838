"""Broken shards are set aside and doubled rows end in one, and no row is lost, whenever it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.base.errors import ShardError
from pipeline.tables import healing
from pipeline.tables.healing import heal, merge, remove_shards, set_aside_broken
from pipeline.tables.rows import read_ids, read_shards
from pipeline.tables.shards import list_shards, write_table
from pipeline.verify import verify
from tests.pipeline.tables.fabricated import IDS, packed, sink, truncate
from tests.tiny import save_pairs


@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_bytes(b"")])
def test_broken_shards_are_set_aside_and_good_ones_stay(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    names = sink(tmp_path).write([packed(IDS[:200])], None)
    damage(tmp_path / "shards" / names[1])
    assert set_aside_broken(str(tmp_path)) == [f"{tmp_path}/broken/{names[1]}"]
    assert (tmp_path / "broken" / names[1]).exists()
    assert len(read_ids(str(tmp_path))) == 200 - 100
    assert set_aside_broken(str(tmp_path)) == []


def test_a_shard_that_cannot_be_reached_is_not_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink(tmp_path).write([packed(IDS[:10])], None)

    def refuse(path: str) -> None:
        raise ShardError("a store that hiccups")

    monkeypatch.setattr(healing, "read_keys", refuse)
    with pytest.raises(ShardError, match="hiccups"):
        set_aside_broken(str(tmp_path))
    assert not (tmp_path / "broken").exists()


def rows(folder: Path) -> list[dict]:
    return read_shards([str(folder)]).sort_by("pair_id").to_pylist()


def test_merging_keeps_every_row_and_its_bytes(tmp_path):
    save_pairs(tmp_path, 12, num_shards=4)
    before, parts = rows(tmp_path), list_shards(str(tmp_path))
    made = merge(parts)
    remove_shards(parts)
    assert list_shards(str(tmp_path)) == [made]
    assert rows(tmp_path) == before
    assert verify(str(tmp_path), deep=True) == []


def test_shards_of_an_earlier_release_and_of_this_one_become_one(tmp_path):
    rows = read_shards([str(save_pairs(tmp_path / "whole", 4))])
    earlier = rows.slice(0, 2).drop_columns(["image_digest", "guidance_difference"])
    for part in (earlier, rows.slice(2)):
        write_table(part, f"{tmp_path}/run/shards")

    merge(list_shards(str(tmp_path / "run")))

    (path,) = [one for one in list_shards(str(tmp_path / "run")) if pq.read_metadata(one).num_rows == 4]
    found = pq.read_table(path)
    assert found.column_names == rows.column_names and set(found["image_digest"][2:].to_pylist()) <= {None, ""}
    assert sorted(found["pair_id"].to_pylist()) == sorted(rows["pair_id"].to_pylist())


def test_a_merge_that_is_cut_short_is_healed_with_the_large_shard_kept(tmp_path):
    save_pairs(tmp_path, 12, num_shards=4)
    before, parts = rows(tmp_path), list_shards(str(tmp_path))
    made = merge(parts)
    assert len(rows(tmp_path)) == 24
    remove_shards(heal(str(tmp_path)))
    assert list_shards(str(tmp_path)) == [made]
    assert rows(tmp_path) == before and verify(str(tmp_path), deep=True) == []
    assert heal(str(tmp_path)) == []


def test_rows_that_shards_share_or_hold_twice_stay_in_one(tmp_path):
    save_pairs(tmp_path, 10, num_shards=1)
    table = read_shards([str(tmp_path)])
    before = rows(tmp_path)
    remove_shards(list_shards(str(tmp_path)))
    for part in (table.slice(0, 6), table.slice(2, 4), table.slice(5, 4), pa.concat_tables([table.slice(8)] * 2)):
        write_table(part, f"{tmp_path}/shards")
    for _ in range(2):  # healed twice, as by a task that is run again
        surplus = heal(str(tmp_path))
    remove_shards(surplus)
    assert rows(tmp_path) == before
    assert pc.count_distinct(read_shards([str(tmp_path)])["pair_id"]).as_py() == 10
    assert verify(str(tmp_path), deep=True) == []
