"""Work: which pairs of a plan are still to be made. Found by Ray tasks, so that the driver holds no rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from pipeline.base.log import log
from pipeline.base.turns import schedule
from pipeline.cluster.tasks import beside_driver, get
from pipeline.prompts.read import prompts_digest, read_prompts, without_gaps
from pipeline.prompts.rows import prompt_rows
from pipeline.tables.healing import set_aside_broken
from pipeline.tables.rows import read_ids
from pipeline.tables.shards import FAILED, MADE

ROWS_PER_CHUNK = 65_536
CHUNKS_AT_ONCE = 4
MAX_BLOCKS = 4000


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts; `table` is in Ray's object store, `without_gaps`."""

    table: Any
    digest: str
    num: int


@dataclass(frozen=True)
class Work:
    """PROMPT rows that are not made yet; `chunks` are in Ray's object store. Without `prompt_class_ids` where the
    classes of no prompt are known."""

    chunks: tuple[Any, ...]
    todo: int

    def dataset(self, batch_size: int) -> ray.data.Dataset:
        """In blocks of whole sampler batches: short ones would be padded, few big ones would idle the actors."""
        rows = batch_size * max(1, math.ceil(self.todo / (batch_size * MAX_BLOCKS)))
        return ray.data.from_arrow_refs(list(self.chunks)).repartition(target_num_rows_per_block=rows)


def load_prompts(source: str) -> Prompts:
    """Reads a source of prompts (`pipeline.prompts.read.read_prompts`, whose errors it raises)."""
    table, facts = beside_driver(_load, num_returns=2).remote(source)
    return Prompts(table, *get(facts))


def find_work(prompts: Prompts, folder: str, *, num_pairs: int, retry_errors: bool, **identity: Any) -> Work:
    """The plan minus what the run in `folder` holds.

    Args:
        prompts: to plan with.
        folder: the run's.
        num_pairs: of the plan.
        retry_errors: also gives the rows that failed before.
        identity: `run_seed`, `bundle_digest`, `sampler_settings` of `pipeline.prompts.rows.prompt_rows`.
    """
    order = beside_driver(_schedule).remote(prompts.table, num_pairs)
    done, broken = beside_driver(_done, num_returns=2).remote(folder, retry_errors)
    for path in get(broken):  # errors are told here, not by every task that needs what is done
        log.warning("a shard could not be read and is now %s; its rows are made again", path)
    left = beside_driver(_left, num_returns=2)
    found: list[tuple[Any, Any]] = []
    for start in range(0, num_pairs, ROWS_PER_CHUNK):
        if len(found) >= CHUNKS_AT_ONCE:  # the tasks reserve nothing, so that a machine without work can run them
            ray.wait([found[-CHUNKS_AT_ONCE][1]])
        found.append(left.remote(prompts.table, order, done, start, identity))
    counts = ray.get([count for _, count in found])
    chunks = tuple(chunk for (chunk, _), count in zip(found, counts, strict=True) if count)
    return Work(chunks, sum(counts))


def _load(source: str) -> tuple[pa.Table, tuple[str, int]]:
    table = read_prompts(source)
    return without_gaps(table), (prompts_digest(table), table.num_rows)


def _schedule(prompts: pa.Table, num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    return schedule(prompts["weight"].to_numpy(), num_pairs)


def _done(folder: str, retry_errors: bool) -> tuple[pa.ChunkedArray, list[str]]:
    broken = set_aside_broken(folder)
    return read_ids(folder, kinds=(MADE,) if retry_errors else (MADE, FAILED)), broken


def _left(
    prompts: pa.Table, order: tuple[np.ndarray, np.ndarray], done: pa.ChunkedArray, start: int, identity: dict[str, Any]
) -> tuple[pa.Table, int]:
    index, repeat = (values[start : start + ROWS_PER_CHUNK] for values in order)
    chosen = prompts.take(pa.array(index))
    rows = prompt_rows(chosen["prompt"], repeat, chosen["class_ids"], **identity)
    if chosen["class_ids"].null_count:
        rows = rows.drop_columns("prompt_class_ids")
    if len(done):
        rows = rows.filter(pc.invert(pc.is_in(rows["pair_id"], done)))
    return rows, rows.num_rows
