"""Small shards become large ones, and no row is lost or there twice, whenever it is stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.base.errors import ConfigError, Stopped
from pipeline.compact import CompactConfig, compact, grouped
from pipeline.tables.healing import heal, merge, remove_shards
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import list_shards, write_table
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
    before, parts = rows(tmp_path), list_shards(str(tmp_path))
    made = merge(parts)
    remove_shards(parts)
    assert list_shards(str(tmp_path)) == [made]
    assert rows(tmp_path) == before
    assert verify(str(tmp_path), deep=True) == []


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


def test_what_is_no_run_is_refused(tmp_path):
    save_pairs(tmp_path, 4)
    with pytest.raises(ConfigError, match="not the folder of a run"):
        compact(CompactConfig(pairs=str(tmp_path)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_what_has_begun_and_the_same_command_goes_on(tmp_path, monkeypatch, number):
    save_pairs(tmp_path, 64, num_shards=8)
    (tmp_path / "config.yaml").write_text("job: ingest")
    before, config = rows(tmp_path), CompactConfig(pairs=str(tmp_path), shard_mb=1)
    parts = list_shards(str(tmp_path))
    monkeypatch.setattr("pipeline.compact.grouped", lambda sizes, _: [parts[:2], parts[2:4]])
    monkeypatch.setattr("pipeline.cluster.finish.in_task", lambda function, *arguments: function(*arguments))

    def stopped_at_the_first(function, *arguments):
        if function is merge:
            os.kill(os.getpid(), number)
        return function(*arguments)

    monkeypatch.setattr("pipeline.compact.in_task", stopped_at_the_first)
    with pytest.raises(Stopped, match="stopped: 1 of 2 large shards are made"):
        compact(config)
    assert len(list_shards(str(tmp_path))) == 7
    assert rows(tmp_path) == before and verify(str(tmp_path), deep=True) == []

    monkeypatch.setattr("pipeline.compact.in_task", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr("pipeline.compact.grouped", grouped)
    assert compact(config).num_pairs == 64
    assert len(list_shards(str(tmp_path))) == 1 and rows(tmp_path) == before
