"""Processes: how the stages of a graph run. Timed, stoppable, and bounded in how often what dies is tried again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data

from pipeline.base.config import Workers
from pipeline.base.errors import ClusterError
from pipeline.cluster.guard import Guard, Rows
from pipeline.cluster.progress import Shared
from pipeline.cluster.sink import WRITE_ARGS
from pipeline.cluster.tasks import MAX_RETRIES

Stage = Callable[[Rows], Rows]
MAX_RESTARTS = 100
"""Of one process of a pool. `Guard` and `Process` bound deaths much earlier, but what they know dies with its own
process, which memory that runs out may end as often as theirs."""


def in_processes(
    rows: ray.data.Dataset,
    name: str,
    make: Callable[[], Stage],
    shared: Shared,
    workers: Workers,
    *,
    batch_size: int,
    reason: str = "process_died",
    batch_format: str = "numpy",
) -> ray.data.Dataset:
    """A stage that is made once in each of a pool of processes, such as one that holds a network.

    Args:
        rows: what goes in; has a column `pair_id`.
        name: of the stage, where time and errors are shown.
        make: makes the stage in its process; what it does with rows that were given up: `Guard`.
        shared: is told what is done.
        workers: of the pool; threads are torch's.
        batch_size: rows that the stage takes.
        reason: error of rows that kill the process.
        batch_format: "numpy" or "pyarrow".
    """
    return rows.map_batches(
        Process,
        fn_constructor_args=(name, make, shared, workers, reason),
        batch_size=batch_size,
        batch_format=batch_format,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        max_restarts=MAX_RESTARTS,
        # Two calls, one in the stage: what the last one made is packed while the next one works.
        compute=ray.data.ActorPoolStrategy(
            size=workers.num, max_tasks_in_flight_per_actor=2, max_concurrent_calls_per_actor=2
        ),
    )


def ahead(prepare: Callable[[], object], workers: Workers) -> None:
    """Has `prepare` called where a pool will run that a graph asks for later, once for each of its processes, and does
    not wait: machines can fetch weights, and a cluster grow, while the driver still plans.

    What fails is not told here: the stage itself says it when it is made.
    """
    # A need for GPUs is no part of the function, or Ray would end the process after each call.
    task: Any = ray.remote(_quietly).options(
        num_cpus=workers.cpus, num_gpus=workers.gpus or None, max_retries=0, scheduling_strategy="SPREAD"
    )
    for _ in range(workers.num):
        task.remote(prepare)


def _quietly(prepare: Callable[[], object]) -> None:
    with suppress(Exception):
        prepare()


def in_task_pool(
    rows: ray.data.Dataset, name: str, stage: Stage, shared: Shared, workers: Workers, *, batch_size: int
) -> ray.data.Dataset:
    """A stage that is a function, in tasks of any machine's CPUs, at most `workers.num` at once."""
    return rows.map_batches(
        partial(_timed, stage, name, shared),
        batch_size=batch_size,
        # Never the writer's share: Ray would fuse the two and bundle what goes in instead of what comes out.
        num_cpus=workers.cpus if workers.cpus != WRITE_ARGS["num_cpus"] else workers.cpus + 0.01,
        max_retries=MAX_RETRIES,
        compute=ray.data.TaskPoolStrategy(size=workers.num),
    )


class Process:
    """What a process of a pool runs: its stage, guarded against rows that kill it and timed.

    A stage that cannot be made is told at the first batch: Ray would hide why behind a story of its own.
    """

    def __init__(self, name: str, make: Callable[[], Stage], shared: Shared, workers: Workers, reason: str) -> None:
        self.name, self.shared = name, shared
        self.problem: Exception | None = None
        if workers.threads:
            import torch  # not above: processes without a network do not wait for it

            torch.set_num_threads(workers.threads)
        limit = MAX_RETRIES * workers.num
        if shared.started(name) > limit:
            self.problem = ClusterError(
                f"processes of the stage {name!r} died {limit} times without finishing a batch. Look for what ends "
                "them: mostly memory (lower batch_size or workers.num), a driver, or a damaged machine. What is made "
                "is kept; run the same command again to go on"
            )
            return
        try:
            self.stage = Guard(make(), shared, reason)
        except Exception as error:
            self.problem = error

    def __call__(self, rows: Rows) -> Rows:
        if self.problem:
            raise self.problem
        if self.stage.nothing is not None:  # at once: a million rows may have to pass until all has ended
            return self.stage.nothing
        return _timed(self.stage, self.name, self.shared, rows, count_errors=True)


def _timed(stage: Stage, name: str, shared: Shared, rows: Rows, *, count_errors: bool = False) -> Rows:
    """What the stage makes of rows; tells how long that took, what came out and, if asked to, which errors."""
    began = time.perf_counter()
    made = stage(rows)
    seconds = time.perf_counter() - began
    errors = Counter(text for text in _column(made, "error") if text) if count_errors else Counter()
    shared.worked(name, _num_rows(made), seconds, _num_bytes(made), dict(errors))
    return made


def _column(rows: Rows, name: str) -> list[str]:
    if isinstance(rows, pa.Table):
        return rows[name].to_pylist() if name in rows.column_names else []
    return [str(value) for value in rows.get(name, ())]


def _num_rows(rows: Rows) -> int:
    if isinstance(rows, pa.Table):
        return rows.num_rows
    return len(next(iter(rows.values()))) if rows else 0


def _num_bytes(rows: Rows) -> int:
    """Bytes of columns, with the encoded pictures in columns of objects."""
    if isinstance(rows, pa.Table):
        return rows.nbytes
    total = 0
    for values in rows.values():
        total += values.nbytes
        if values.dtype == object and len(values) and isinstance(values[0], bytes):
            total += sum(len(value) for value in values)
    return total
