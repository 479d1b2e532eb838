"""Drive: the one way to run a graph into the shards of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError

from pipeline.base.config import Workers
from pipeline.base.errors import ClusterError, ShardError, Stopped
from pipeline.base.log import log
from pipeline.cluster.connection import require
from pipeline.cluster.finish import finish
from pipeline.cluster.progress import Shared
from pipeline.cluster.sink import SHARD_BYTES, WRITE_ARGS, ShardSink
from pipeline.cluster.tasks import in_words, plain_errors
from pipeline.cluster.watch import Watch
from pipeline.runs.run import Run
from pipeline.storage.files import is_file
from pipeline.storage.publish import write_bytes
from pipeline.tables.label_space import LABELS, described, load_labels
from pipeline.tables.manifest import THROUGHPUT
from pipeline.tables.schema import PAIR

MAX_LOSSES = 3
"""Starts of a graph that a lost part of the cluster ends without one row more being made."""


@dataclass(frozen=True)
class Left:
    """What a run does not hold yet.

    Attributes:
        num: how many rows.
        graph: what makes them.
        later: how many of them it leaves to the next one.
    """

    num: int
    graph: Callable[[Shared], ray.data.Dataset]
    later: int = 0


def num_pairs(run: Run) -> int:
    """Ends the part of a run that was made, and counts its pairs."""
    return finish(run).num_pairs


def drive(
    run: Run,
    job: str,
    left: Left,
    find: Callable[[], Left],
    *,
    planned: int,
    stages: dict[str, int],
    workers: Workers,
    schema: pa.Schema = PAIR,
    rows_per_shard: int = 0,
    shard_bytes: int = SHARD_BYTES,
    noun: str = "pairs",
    close: Callable[[Run], int] = num_pairs,
    gpu_hour_price: float = 0.0,
    every_s: float = 10.0,
) -> None:
    """Makes the rows that a run does not hold, and again what was lost on the way, until it holds them all.

    Checks that there is room, shows where the work stands, and lets Ctrl-C finish and write what has begun. What dies
    is started again a bounded number of times.

    Args:
        run: open.
        job: what messages call it.
        left: what is to be made.
        find: looks again what is left; rows that failed do not count.
        planned: rows that the run will hold.
        stages: processes of each stage, in order; rows that left the first one count as done.
        workers: the processes that must find room.
        schema, rows_per_shard, shard_bytes: of the shards, as of ShardSink.
        noun: what messages call the rows.
        close: ends what was made when the user stops, and counts it.
        gpu_hour_price: of one GPU, to show what it costs; 0 shows nothing.
        every_s: between lines.

    Raises:
        ConfigError: there is no room for the workers.
        ClusterError: processes or machines died too often.
        ShardError: what was written cannot be found.
        Stopped: SIGINT; what had begun is written.
    """
    losses = 0
    while left.num:
        require(workers)
        shared = Shared.start()
        watch = Watch(
            job=job,
            run=run,
            shared=shared,
            workers={**stages, "write": 1},
            already=planned - left.num,
            planned=planned,
            noun=noun,
            gpus=workers.num * workers.gpus,
            gpu_hour_price=gpu_hour_price,
            every_s=every_s,
        )
        if schema is PAIR and is_file(f"{run.folder}/{LABELS}"):
            schema = described(PAIR, load_labels(str(run.folder)))
        sink = ShardSink(str(run.folder), rows_per_shard, schema, shard_bytes=shard_bytes, shared=shared)
        lost = ""
        try:
            run.tracker.if_refused(shared.stop)
            with watch(), plain_errors():
                left.graph(shared).write_datasink(sink, ray_remote_args=WRITE_ARGS)
        except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
            if hasattr(error, "cause"):  # a mistake of ours: with its trace
                raise
            lost = in_words(error)
        finally:
            with suppress(ray.exceptions.RayError):  # the connection may be what failed
                write_bytes(f"{run.folder}/{THROUGHPUT}", json.dumps(watch.throughput(), indent=1).encode())
        run.tracker.check()
        if watch.stopped:
            raise Stopped(f"stopped: {close(run):,} of {planned:,} {noun} are in {run.folder}")
        before, left = left, find()
        if not lost and left.num >= before.num:
            raise ShardError(
                f"{left.num:,} planned {noun} are not in {run.folder} though they were made; do all machines see this "
                "place? Then run the same command again"
            )
        if left.num:
            losses = 0 if left.num < before.num else losses + 1
            if lost and losses >= MAX_LOSSES:
                raise ClusterError(f"{lost}; tried {losses} times in vain. Run the same command again")
            if (again := left.num - before.later) > 0:
                log.warning("%s: %s%s %s are made again", job, f"{lost}; " if lost else "", f"{again:,}", noun)
