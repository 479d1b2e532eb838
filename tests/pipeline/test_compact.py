"""Small shards become large ones, and no row is lost or there twice, whenever it is stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pipeline.base.errors import ConfigError, Stopped
from pipeline.compact import CompactConfig, compact, grouped
from pipeline.tables.healing import merge
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import list_shards
from pipeline.verify import verify
from tests.tiny import save_pairs


def rows(folder: Path) -> list[dict]:
    return read_shards([str(folder)]).sort_by("pair_id").to_pylist()


def test_small_ones_are_grouped_to_about_the_size_and_large_ones_left():
    sizes = {"a": 60, "b": 10, "c": 30, "d": 45, "e": 49, "f": 200}
    assert grouped(sizes, 100) == [["b", "c", "d"]], "e would stay alone"
    assert grouped({"a": 10}, 100) == [] == grouped({}, 100)


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
