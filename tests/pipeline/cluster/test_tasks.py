"""Tasks that die are tried again a bounded number of times; what they raise reaches the user as it was."""

from __future__ import annotations

import os
import time

import pytest
from ray.exceptions import NodeDiedError, OutOfMemoryError, RaySystemError, WorkerCrashedError

from pipeline.base.config import Workers
from pipeline.base.errors import ClusterError, DataError
from pipeline.cluster import tasks
from pipeline.cluster.tasks import beside_driver, get, in_task, in_tasks, in_words


def test_what_ray_says_becomes_a_sentence():
    assert in_words(WorkerCrashedError()) == in_words(NodeDiedError("x")) == "a process or its machine died too often"
    assert "ran out of memory; lower batch_size or workers.num" in in_words(OutOfMemoryError("1 worker(s) killed\nxs"))
    assert in_words(RaySystemError("the store is gone\nmuch more")).endswith("the store is gone)")


@pytest.mark.ray
def test_a_task_that_dies_for_ever_is_one_sentence(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "MAX_RETRIES", 1)
    deaths = tmp_path / "deaths"

    def die(name: str) -> None:
        with deaths.open("a") as log:
            log.write(name)
        os._exit(1)

    calls = (
        lambda: in_task(die, "a"),
        lambda: list(in_tasks(die, [("b",)], Workers())),
        lambda: get(beside_driver(die).remote("c")),
    )
    for call in calls:
        with pytest.raises(ClusterError, match="^a process or its machine died too often. Run the same command again$"):
            call()
    assert deaths.read_text() == "aabbcc"


@pytest.mark.ray
def test_a_users_mistake_in_a_task_is_told_as_it_was_raised(ray_session):
    def refuse() -> None:
        raise DataError("a.png: no picture")

    with pytest.raises(DataError, match="^a.png: no picture$"):
        in_task(refuse)


@pytest.mark.ray
def test_tasks_run_so_many_at_once_and_give_what_is_ready(ray_session, tmp_path):
    def work(name: str) -> int:
        (tmp_path / name).touch()
        time.sleep(0.2)
        running = len(list(tmp_path.iterdir()))
        (tmp_path / name).unlink()
        return running

    assert max(in_tasks(work, [(str(number),) for number in range(6)], Workers(num=2, cpus=0.5))) <= 2
