"""Verifying many files: it says how far it is, and a stop says what was found so far."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

import jobs.verify
from pipeline.base.errors import Stopped
from pipeline.tables.shards import list_shards
from pipeline.verify import check_shard
from tests.tiny import save_pairs


@pytest.fixture
def shards(tmp_path, monkeypatch) -> list[str]:
    """Four files, the second of which is damaged; tasks run in this process, the last one first."""
    save_pairs(tmp_path, 12, num_shards=4)
    paths = list_shards(str(tmp_path))
    Path(paths[1]).write_bytes(b"damaged")

    def in_tasks(function, calls, workers):
        for call in reversed(list(calls)):
            yield function(*call)

    monkeypatch.setattr(jobs.verify, "ray", SimpleNamespace(cluster_resources=dict))
    monkeypatch.setattr(jobs.verify.tasks, "in_tasks", in_tasks)
    return paths


def test_results_come_in_the_order_of_the_files(shards):
    found = jobs.verify.in_tasks(partial(check_shard, None, False), shards)
    assert [len(problems) for _, problems in found] == [0, 1, 0, 0]
    assert all(isinstance(keys, pa.ChunkedArray) for keys, _ in found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_what_was_found_so_far(shards, monkeypatch, capsys, number):
    def stopped_at_the_second(function, calls, workers):
        for place, call in enumerate(calls):
            yield function(*call)
            if place == 1:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(jobs.verify.tasks, "in_tasks", stopped_at_the_second)
    with pytest.raises(Stopped, match="stopped: 2 of 4 files were checked, with 1 problems"):
        jobs.verify.in_tasks(partial(check_shard, None, False), shards)
