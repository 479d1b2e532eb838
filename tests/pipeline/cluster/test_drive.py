"""Whatever part of Ray dies under a graph, its rows are made, or the job ends with one sentence after bounded tries."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import OutOfMemoryError, RaySystemError, WorkerCrashedError

from pipeline.base.config import Workers
from pipeline.base.errors import ClusterError, ConfigError, ShardError, Stopped
from pipeline.cluster.drive import MAX_LOSSES, Left, drive
from pipeline.cluster.processes import in_processes
from pipeline.cluster.progress import Shared
from pipeline.runs.run import Run
from pipeline.tables.rows import read_ids
from pipeline.tables.shards import MADE, write_table

pytestmark = pytest.mark.ray
SCHEMA = pa.schema([("pair_id", pa.string())])


@pytest.fixture
def run(ray_session, tmp_path) -> Run:
    """A run whose numbers go nowhere."""
    tracker: Any = SimpleNamespace(metrics=lambda values, step: None, if_refused=lambda act: None, check=lambda: None)
    return Run(tmp_path, tracker)


def made(run: Run) -> list[str]:
    return sorted(read_ids(str(run.folder), kinds=(MADE,)).to_pylist())


def make(run: Run, planned: list[str], graph, **changes) -> None:
    """Drives `graph(ids, shared)` until all ids of `planned` are made."""

    def find() -> Left:
        left = sorted({*planned} - {*made(run)})
        return Left(len(left), lambda shared: graph(left, shared))

    options: dict[str, Any] = {"workers": Workers(cpus=0.5), "stages": {"make": 1}, "schema": SCHEMA, "every_s": 0.2}
    drive(run, "test", find(), find, planned=len(planned), **{**options, **changes})


class Writes:
    """Stands for a graph: what happens when it is written."""

    def __init__(self, act) -> None:
        self.act = act

    def write_datasink(self, sink, ray_remote_args) -> None:
        self.act(sink)


def write(sink, ids: list[str]) -> None:
    write_table(pa.table({"pair_id": ids}, schema=SCHEMA), f"{sink.folder}/{MADE}")


def test_a_graph_that_is_lost_and_got_on_goes_on_as_often_as_it_takes(run):
    starts = []

    def graph(ids, shared):
        def act(sink):
            starts.append(len(ids))
            write(sink, ids[:1])
            if len(ids) > 1:
                raise WorkerCrashedError

        return Writes(act)

    make(run, [f"id{row}" for row in range(6)], graph)
    assert starts == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (WorkerCrashedError(), "a process or its machine died too often; tried 3 times in vain"),
        (OutOfMemoryError("1 worker(s) were killed due to the node running low on memory"), "ran out of memory"),
        (RaySystemError("the store is gone"), "a part of the cluster was lost"),
        (ExecutionTimeoutError("Dataset execution made no progress"), "made no progress"),
    ],
)
def test_a_graph_that_is_lost_for_ever_ends_in_one_sentence(run, error, words):
    starts = []

    def act(sink):
        starts.append(sink)
        raise error

    with pytest.raises(ClusterError, match=words) as told:
        make(run, ["a"], lambda ids, shared: Writes(act))
    assert len(starts) == MAX_LOSSES and "\n" not in str(told.value)
    assert str(told.value).endswith("Run the same command again")


def test_rows_that_were_made_and_are_nowhere_are_an_error(run):
    with pytest.raises(ShardError, match="do all machines see this place"):
        make(run, ["a"], lambda ids, shared: Writes(lambda sink: None))


def test_workers_without_room_are_refused(run):
    with pytest.raises(ConfigError, match="need 100.5 CPUs"):
        make(run, ["a"], lambda ids, shared: Writes(print), workers=Workers(num=99))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_lets_what_has_begun_be_written_and_says_so(run, number):
    before = signal.getsignal(number)

    def graph(ids, shared):
        def act(sink):
            os.kill(os.getpid(), number)
            while not shared.stopping():
                time.sleep(0.01)
            write(sink, ids[:2])

        return Writes(act)

    with pytest.raises(Stopped, match="stopped: 2 of 3 pairs are in"):
        make(run, ["a", "b", "c"], graph, close=lambda run: len(made(run)))
    assert made(run) == ["a", "b"] and signal.getsignal(number) == before


def test_a_run_whose_helpers_die_loses_numbers_only(run, tmp_path):
    """Memory pressure ends what is newest, whatever it is: here what shows progress, and what counts for Ray."""
    started, killed = tmp_path / "started", tmp_path / "killed"

    def make_slow():
        def slow(batch):
            started.touch()
            while not killed.exists():
                time.sleep(0.05)
            return batch

        return slow

    def kill(shared: Shared) -> None:
        while not started.exists():
            time.sleep(0.05)
        statistics = ray.get_actor("datasets_stats_actor", namespace="_dataset_stats_actor")
        for actor in (shared.actor, statistics):
            os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        killed.touch()

    def graph(ids, shared):
        threading.Thread(target=kill, args=(shared,)).start()
        rows = ray.data.from_items([{"pair_id": one} for one in ids], override_num_blocks=2)
        return in_processes(rows, "make", make_slow, shared, Workers(cpus=0.5), batch_size=4)

    planned = [f"id{row}" for row in range(8)]
    make(run, planned, graph)
    assert killed.exists() and made(run) == planned
