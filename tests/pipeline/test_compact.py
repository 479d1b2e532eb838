"""Small shards become large ones, and no row is lost or there twice, whenever it is stopped."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipeline import compact as module
from pipeline.compact import CompactConfig, compact, grouped, heal, merge
from pipeline.errors import ConfigError
from pipeline.shards import list_shards, read_shards, write_table
from pipeline.verify import verify
from tests.tiny import save_pairs


def rows(folder: Path) -> list[dict]:
    return read_shards([str(folder)]).sort_by("pair_id").to_pylist()


def test_small_ones_are_grouped_to_about_the_size_and_large_ones_left():
    sizes = {"a": 60, "b": 10, "c": 30, "d": 45, "e": 49, "f": 200}
    assert grouped(sizes, 100) == [["b", "c", "d"]], "e would stay alone"
    assert grouped({"a": 10}, 100) == [] == grouped({}, 100)


def test_merging_keeps_every_row_and_its_bytes(tmp_path):
    save_pairs(tmp_path, 12, num_shards=4)
    before = rows(tmp_path)
    merge(list_shards(str(tmp_path)))
    assert len(list_shards(str(tmp_path))) == 1
    assert rows(tmp_path) == before
    assert verify(str(tmp_path), deep=True) == []


def test_a_merge_that_is_cut_short_is_healed(tmp_path, monkeypatch):
    save_pairs(tmp_path, 12, num_shards=4)
    before = rows(tmp_path)

    def die(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "remove_shards", die)
        merge(list_shards(str(tmp_path)))
    assert len(rows(tmp_path)) == 24
    assert heal(str(tmp_path)) == 12
    assert rows(tmp_path) == before and verify(str(tmp_path), deep=True) == []
    assert heal(str(tmp_path)) == 0


def test_rows_that_two_shards_share_stay_in_one(tmp_path):
    save_pairs(tmp_path, 10, num_shards=1)
    table = read_shards([str(tmp_path)])
    before = rows(tmp_path)
    for start in (2, 5):
        write_table(table.slice(start, 4), f"{tmp_path}/shards")
    assert heal(str(tmp_path)) == 8
    assert rows(tmp_path) == before
    assert pc.count_distinct(read_shards([str(tmp_path)])["pair_id"]).as_py() == 10


def test_what_is_no_run_is_refused(tmp_path):
    save_pairs(tmp_path, 4)
    with pytest.raises(ConfigError, match="not the folder of a run"):
        compact(CompactConfig(pairs=str(tmp_path)))
