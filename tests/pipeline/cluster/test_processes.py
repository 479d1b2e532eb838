"""A process that dies for ever ends a graph with one sentence, after a bounded number of tries."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray.data

from pipeline.base.config import Workers
from pipeline.base.errors import ClusterError
from pipeline.cluster import processes
from pipeline.cluster.processes import Process, _timed, ahead, in_processes, in_task_pool
from pipeline.cluster.progress import Progress, Shared
from pipeline.cluster.tasks import MAX_RETRIES, plain_errors

pytestmark = pytest.mark.ray
ONE = Workers(cpus=0.5)


@pytest.fixture(autouse=True)
def errors_as_they_were_raised(monkeypatch):
    monkeypatch.setattr(ray.data.DataContext.get_current(), "raise_original_map_exception", True)


def died(file: Path) -> int:
    return len(file.read_text()) if file.exists() else 0


def rows(num: int = 4) -> ray.data.Dataset:
    return ray.data.from_items([{"pair_id": f"id{row}"} for row in range(num)], override_num_blocks=1)


def make_dying(file: Path, when_made: bool):
    """A stage whose process dies while it makes it, or with every row."""

    def die() -> None:
        with file.open("a") as log:
            log.write("x")
        os._exit(1)

    def stage(batch):
        if not all(batch.get("error", [""] * len(batch["pair_id"]))):
            die()
        return batch

    if when_made:
        die()
    return stage


def test_a_process_that_dies_while_it_is_made_ends_in_one_sentence(ray_session, tmp_path):
    file, shared = tmp_path / "deaths", Shared.start()
    for _ in range(MAX_RETRIES - 2):  # as if so many had died, for a start takes seconds
        shared.started("encode")
    graph = in_processes(rows(), "encode", partial(make_dying, file, True), shared, ONE, batch_size=4)
    with pytest.raises(ClusterError, match="processes of the stage 'encode' died 10 times without"), plain_errors():
        graph.materialize()
    assert died(file) == 2


def test_rows_that_kill_every_process_are_errors_in_bounded_time(ray_session, tmp_path):
    file = tmp_path / "deaths"
    graph = in_processes(rows(2), "encode", partial(make_dying, file, False), Shared.start(), ONE, batch_size=2)
    made = graph.take_all()
    assert [row["error"] for row in made] == ["process_died"] * 2
    assert died(file) == 6, "twice together, twice for each of the two"


def test_graphs_of_a_driver_share_a_process_and_nothing_else(ray_session):
    one, other = Shared.start(), Shared.start()
    one.worked("sample", 3, 0.1, 10)
    one.stop()
    assert one.snapshot()[0]["sample"].rows == 3 and one.stopping()
    assert other.snapshot() == ({}, Counter()) and not other.stopping()
    assert one.actor == other.actor
    ray.kill(one.actor)  # for good, and soon
    for _ in range(600):
        if one.snapshot() == ({}, Counter()):
            break
        time.sleep(0.1)
    assert one.snapshot() == ({}, Counter()), "nothing waits for it"
    assert Shared.start().started("sample") == 1


def test_a_mistake_while_a_process_is_made_is_told_as_it_was_made():
    def make():
        raise ClusterError("no driver")

    process = Process("encode", make, Progress(), ONE, "process_died")  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="no driver"):
        process({"pair_id": np.array(["a"], object)})


def test_a_task_that_dies_for_ever_ends(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "MAX_RETRIES", 1)
    file = tmp_path / "deaths"

    def stage(batch):
        with file.open("a") as log:
            log.write("x")
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        in_task_pool(rows(), "refine", stage, Shared.start(), ONE, batch_size=4).materialize()
    assert died(file) == 2


def test_a_timed_stage_tells_rows_seconds_bytes_and_errors():
    progress = Progress()
    out = {"image": np.array([b"123", b""], object), "error": np.array(["", "empty_prompt"], object)}
    assert _timed(lambda _: out, "sample", progress, {}, count_errors=True) is out  # type: ignore[arg-type]
    stages, errors = progress.snapshot()
    assert stages["sample"].rows == 2 and stages["sample"].num_bytes >= 3 and stages["sample"].busy_s > 0
    assert errors == Counter(empty_prompt=1)


def lives(number: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def make_noting(folder: Path):
    """A stage that leaves the number of its process in a folder."""
    (folder / str(os.getpid())).touch()
    return lambda batch: batch


def test_a_pool_is_left_with_its_last_rows_while_later_stages_still_work(ray_session, tmp_path):
    """What it reserved (a GPU) is free then, and its process gone."""
    pool, shared = tmp_path / "pool", Shared.start()
    pool.mkdir()

    def slow(batch):
        time.sleep(1)
        mates = [int(one.name) for one in pool.iterdir()]
        (tmp_path / f"{time.time()}").write_text(f"{len(mates)} {sum(map(lives, mates))}")
        return batch

    sampled = in_processes(rows(12), "sample", partial(make_noting, pool), shared, Workers(cpus=2), batch_size=4)
    graph = in_task_pool(sampled, "refine", slow, shared, ONE, batch_size=1)
    free: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            free.append(ray.available_resources().get("CPU", 0.0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert len(graph.take_all()) == 12
    finally:
        ended.set()
        watcher.join()
    seen = [file.read_text() for file in sorted(tmp_path.glob("1*"))]
    assert seen[-1] == "1 0", f"processes of the pool, and those that were there, row after row: {seen}"
    assert max(free[len(free) // 2 :]) > 2, "only the row that is worked on reserves something"


def test_machines_are_made_ready_beside_the_driver(ray_session, tmp_path):
    def prepare() -> None:
        time.sleep(1)
        (tmp_path / f"{os.getpid()}-{time.time()}").touch()
        raise OSError("no room")

    began = time.monotonic()
    ahead(prepare, Workers(num=2, cpus=0.5))
    assert time.monotonic() - began < 1, "the driver does not wait"
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() - began < 60
        time.sleep(0.1)
