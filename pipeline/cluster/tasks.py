"""Ray tasks: their errors as the user made them, and how often what dies is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.exceptions as failures
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.base.config import Workers
from pipeline.base.errors import ClusterError, JoDiffusionError

MAX_RETRIES = 10
"""Of a task whose process or machine dies: Ray would try for ever, also where it is the rows that kill it."""
OOM_RETRIES = 6
"""Of a task whose process Ray ends because memory runs out, after pauses of 1, 2, 4, ... s: more would take hours."""


def in_tasks(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], workers: Workers) -> Iterator[Any]:
    """What `function` returns for each of `calls`, as it is ready; at most `workers.num` of them run at once."""
    task = ray.remote(function).options(num_cpus=workers.cpus, max_retries=MAX_RETRIES)
    running: list[Any] = []
    for arguments in calls:
        if len(running) == workers.num:
            (done,), running = ray.wait(running)
            yield get(done)
        running.append(task.remote(*arguments))
    while running:
        (done,), running = ray.wait(running)
        yield get(done)


def in_task(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, called in a process that then gives its memory back."""
    return get(ray.remote(function).options(max_retries=MAX_RETRIES).remote(*arguments))


def get(ref: Any) -> Any:
    """The value of a task, whose errors are raised as by `plain_errors`; a process that died too often is one
    ClusterError."""
    try:
        with plain_errors():
            return ray.get(ref)
    except failures.RayError as error:
        if hasattr(error, "cause"):  # a mistake of ours: with its trace
            raise
        raise ClusterError(f"{in_words(error)}. Run the same command again") from error


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raises a user's mistake that a Ray task or stage found as it was there, without Ray's story around it."""
    try:
        yield
    except failures.RayTaskError as error:
        from models.weights import WeightsError  # not above: tasks that list and read must not wait for torch

        if isinstance(cause := error.cause, JoDiffusionError | WeightsError):
            cause.args = (str(cause).partition("\nFailed to apply UDF")[0],)  # what Ray Data adds, for its developers
            raise cause from None
        raise


def in_words(error: Exception) -> str:
    """What an error of Ray's own means to who runs a job."""
    if isinstance(error, failures.OutOfMemoryError):
        return (
            "a process was ended again and again because its machine ran out of memory; lower batch_size or "
            "workers.num, or take machines with more memory"
        )
    if isinstance(error, failures.WorkerCrashedError | failures.ActorDiedError | failures.NodeDiedError):
        return "a process or its machine died too often"
    return f"a part of the cluster was lost ({str(error).splitlines()[0]})"


def beside_driver(function: Callable[..., Any], num_returns: int = 1) -> Any:
    """`function` as a Ray task beside the driver. What it returns is lost with the driver's machine only: elsewhere it
    would be lost alone and made again, from shards that hold more by then, as other rows."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "num_returns": num_returns, "max_retries": MAX_RETRIES}
    return ray.remote(function).options(scheduling_strategy=here, **options)
