"""To do: which pairs of a plan of prompts are still to be made. Ray tasks find them; the driver holds no rows."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from models.labels import LabelSpace
from pipeline.base.log import clock, log
from pipeline.base.turns import schedule
from pipeline.cluster.progress import Shared
from pipeline.cluster.tasks import MAX_RETRIES, beside_driver, get
from pipeline.prompts.read import (
    check_class_ids,
    distinct,
    offsets_of,
    prompts_digest,
    read_rows,
    without_blank,
    without_gaps,
)
from pipeline.prompts.rows import prompt_rows
from pipeline.tables.healing import set_aside_broken
from pipeline.tables.rows import read_ids
from pipeline.tables.shards import FAILED, MADE

ROWS_PER_CHUNK = 65_536
CHUNKS_AT_ONCE = 4
MAX_BLOCKS = 4000
MAX_CHUNKS = 128
"""Of one graph, which Ray may hold in memory, and which must pass through its stages when all is to stop."""
ROWS_TO_TELL = 2**20
"""Pairs of a plan from which on it is told what planning takes."""
ROWS_PER_S = 100_000
"""Pairs that a core plans in a second, about."""
CHUNK_BYTES = 80 * 2**20
"""What a task takes to plan a chunk, about."""
OFFSET = "offset"
"""Column beside PROMPTS: of the turns of a prompt."""
Rows = Callable[[Callable[[], bool], pa.Table], pa.Table]


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts; `table` is in Ray's object store, `without_gaps`, with OFFSET."""

    table: Any
    digest: str
    num: int


@dataclass(frozen=True)
class Work:
    """PROMPT rows that are not made yet, without `prompt_class_ids` where the classes of no prompt are known. They are
    made when they are needed, a chunk at a time: those of a large plan would fill every memory.

    Attributes:
        chunks: where those that hold any start and stop, all of them or the first MAX_CHUNKS.
        todo: how many rows there are.
        later: how many of them are in other chunks.
        rows: gives those of the chunks in a table; none any more when the first argument says so.
    """

    chunks: tuple[tuple[int, int], ...]
    todo: int
    later: int
    rows: Rows

    def dataset(self, batch_size: int, shared: Shared) -> ray.data.Dataset:
        """In blocks of whole sampler batches: short ones would be padded, few big ones would idle the actors. In no
        order. Ends when all work is to stop."""
        batches = math.ceil((self.todo - self.later) / (batch_size * MAX_BLOCKS))
        chunks = [{"start": start, "stop": stop} for start, stop in self.chunks]
        each = ray.data.from_items(chunks, override_num_blocks=len(chunks))  # a task each
        rows = each.map_batches(
            partial(self.rows, shared.stopping), batch_size=1, batch_format="pyarrow", max_retries=MAX_RETRIES
        )
        return rows.repartition(target_num_rows_per_block=batch_size * max(1, batches))


def load_prompts(source: str, labels: LabelSpace, *, drawn: bool = True) -> Prompts:
    """Reads a source of prompts for pairs with the classes of `labels`.

    Args:
        source: of prompts.
        labels: of the bundle.
        drawn: turns come at offsets that are drawn. Runs of earlier releases had one offset for all, so that plans
            shorter than their prompts were of those alone that weigh most.

    Raises:
        DataError: as `pipeline.prompts.read.read_prompts` and `check_class_ids`.
    """
    table, facts = beside_driver(_load, num_returns=2).remote(source, labels, drawn)
    digest, num, num_blank = get(facts)
    if num_blank:
        log.warning("prompts: %s blank ones of %s are dropped", f"{num_blank:,}", source)
    return Prompts(table, digest, num)


def find_work(prompts: Prompts, folder: str, *, num_pairs: int, retry_errors: bool, **identity: Any) -> Work:
    """The plan minus what the run in `folder` holds.

    Args:
        prompts: to plan with.
        folder: the run's.
        num_pairs: of the plan.
        retry_errors: also gives the rows that failed before.
        identity: `run_seed`, `bundle_digest`, `sampler_settings` of `pipeline.prompts.rows.prompt_rows`.
    """
    done, facts = beside_driver(_done, num_returns=2).remote(folder, retry_errors)
    num_done, broken = get(facts)
    for path in broken:  # errors are told here, not by every task that needs what is done
        log.warning("a shard could not be read and is now %s; its rows are made again", path)
    rows = partial(_rows, prompts.table, done, identity)
    if num_pairs >= ROWS_TO_TELL:
        _tell(num_pairs, num_done)
    count = beside_driver(_count)
    chunks = [(start, min(start + ROWS_PER_CHUNK, num_pairs)) for start in range(0, num_pairs, ROWS_PER_CHUNK)]
    left = [stop - start for start, stop in chunks]
    ahead: list[Any] = []
    for place, (start, stop) in enumerate(chunks):
        if not num_done:  # all that there is was found: the other chunks are as they were planned
            break
        for further in chunks[place + len(ahead) : place + CHUNKS_AT_ONCE]:
            ahead.append(count.remote(rows, further))  # reserves nothing, so that a machine without room can run it
        left[place] = get(ahead.pop(0))
        num_done -= stop - start - left[place]
    places = [place for place, num in enumerate(left) if num]
    later = sum(left[place] for place in places[MAX_CHUNKS:])
    return Work(tuple(chunks[place] for place in places[:MAX_CHUNKS]), sum(left), later, rows)


def _tell(num_pairs: int, num_done: int) -> None:
    """Says what it takes to find what is left of a large plan."""
    seconds = num_pairs / ROWS_PER_S / min(CHUNKS_AT_ONCE, os.cpu_count() or 1) if num_done else 0
    log.info(
        "plan: %s pairs in %s chunks, each made when it is needed: about %d MB of memory%s",
        f"{num_pairs:,}",
        f"{math.ceil(num_pairs / ROWS_PER_CHUNK):,}",
        CHUNKS_AT_ONCE * CHUNK_BYTES / 2**20,
        f"; to look which of them are among the {num_done:,} that are there takes up to about {clock(seconds)}"
        if num_done
        else "",
    )


def _load(source: str, labels: LabelSpace, drawn: bool) -> tuple[pa.Table, tuple[str, int, int]]:
    rows = read_rows(source)
    check_class_ids(rows, labels, source)
    found = distinct(rows)
    planned = without_blank(found)
    num_blank = rows.num_rows - without_blank(rows).num_rows
    table = without_gaps(planned)
    if drawn:
        table = table.append_column(OFFSET, pa.array(offsets_of(planned["prompt"])))
    return table, (prompts_digest(found), planned.num_rows, num_blank)


def _done(folder: str, retry_errors: bool) -> tuple[pa.Array, tuple[int, list[str]]]:
    broken = set_aside_broken(folder)
    done = pc.unique(read_ids(folder, kinds=(MADE,) if retry_errors else (MADE, FAILED)))
    return done, (len(done), broken)


def _count(rows: Rows, chunk: tuple[int, int]) -> int:
    return rows(bool, pa.table({"start": chunk[:1], "stop": chunk[1:]})).num_rows


def _rows(
    prompts: Any, done: Any, identity: dict[str, Any], stopping: Callable[[], bool], chunks: pa.Table
) -> pa.Table:
    """Of a task; `prompts` and `done` are in Ray's object store."""
    prompts, done = ray.get([prompts, done])
    if stopping():
        chunks = chunks.set_column(1, "stop", chunks["start"])
    return pa.concat_tables(left_of_chunk(prompts, done, **chunk, identity=identity) for chunk in chunks.to_pylist())


def left_of_chunk(prompts: pa.Table, done: pa.Array, start: int, stop: int, identity: dict[str, Any]) -> pa.Table:
    """The rows from `start` to before `stop` of a plan that are not `done`."""
    offsets = prompts[OFFSET].to_numpy() if OFFSET in prompts.column_names else 0.5
    index, repeat = schedule(prompts["weight"].to_numpy(), stop, start, offsets)
    chosen = prompts.take(pa.array(index))
    rows = prompt_rows(chosen["prompt"], repeat, chosen["class_ids"], **identity)
    if chosen["class_ids"].null_count:
        rows = rows.drop_columns("prompt_class_ids")
    return rows.filter(pc.invert(pc.is_in(rows["pair_id"], done))) if len(done) else rows
