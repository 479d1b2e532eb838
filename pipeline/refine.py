"""Refine again: the pairs of a run with other mask optimisation, without sampling anew."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pyarrow as pa
import ray.data
from pydantic import Field

from models.labels import LabelSpace
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import Folder
from pipeline.cluster.drive import Left, drive
from pipeline.cluster.finish import finish
from pipeline.cluster.processes import in_task_pool
from pipeline.cluster.progress import Shared
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.stages.pack import pack_pairs
from pipeline.stages.refine import Refine, refine_masks
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import canonical_json, pair_id
from pipeline.tables.label_space import LABELS, load_labels
from pipeline.tables.manifest import Manifest
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.rows import read_shards, remaining
from pipeline.tables.schema import Batch
from pipeline.tables.shards import remove_drafts

SAFE_TO_CHANGE = frozenset({"rows_per_shard", "log_every_s"})
ROWS_PER_BATCH = 256


class RefineConfig(RunConfig):
    """Writes the pairs of a generate run again, refined otherwise. Sample with `refine.min_area_px 0` to compare."""

    pairs: Folder
    """Folder of a generate run whose masks were not refined."""
    refine: Refine = Refine()
    """What to do to the masks."""
    rows_per_shard: int = Field(1000, ge=1)
    """Pairs per Parquet file, give or take half."""
    workers: Workers = Workers(num=2)
    """Tasks at once."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines, and between points in MLflow."""


def refine(config: RefineConfig) -> Manifest:
    """Writes what `config.run` does not hold yet; the rows equal those that generating with these settings would give.

    Raises:
        ConfigError: the source is no generate run, or was refined already, so what was removed cannot come back.
    """
    source = config.pairs
    with Run.open(config, "refine", SAFE_TO_CHANGE, on_store=True) as run:
        folder = str(run.folder)
        labels = load_labels(source)
        rows = read_shards([source], ["pair_id", "prompt", "seed", "bundle", "sampler"])
        settings = {text: _with_refine(text, config.refine, source) for text in set(rows["sampler"].to_pylist())}
        plan = refined_ids(rows, settings)
        remove_drafts(folder)
        # Not before: a run that holds something is bound to its config, wrong as that may be.
        write_bytes(f"{folder}/{LABELS}", labels.to_json().encode())

        def left() -> Left:
            todo = remaining(plan, folder)
            return Left(todo.num_rows, lambda shared: graph(source, todo, settings, labels, config, shared))

        found = left()
        log.info("refine: %d of %d pairs to write, %s", found.num, rows.num_rows, config.refine)
        drive(
            run,
            "refine",
            found,
            left,
            planned=rows.num_rows,
            stages={"refine": config.workers.num},
            workers=config.workers,
            rows_per_shard=config.rows_per_shard,
            every_s=config.log_every_s,
        )
        return finish(run)


def graph(
    source: str, todo: pa.Table, settings: dict[str, str], labels: LabelSpace, config: RefineConfig, shared: Shared
) -> ray.data.Dataset:
    """Pairs of the run `source` -> those in `todo` with refined masks."""
    stage = partial(
        refine_packed,
        wanted=ray.put(dict(zip(todo["source_id"].to_pylist(), todo["pair_id"].to_pylist(), strict=True))),
        settings=settings,
        refine=config.refine,
        ignore_index=labels.ignore_index,
    )
    # Small files are read as one block, which would keep one task busy and the others idle.
    rows = read_pairs([source]).repartition(target_num_rows_per_block=ROWS_PER_BATCH)
    return in_task_pool(rows, "refine", stage, shared, config.workers, batch_size=ROWS_PER_BATCH)


def refined_ids(rows: pa.Table, settings: dict[str, str]) -> pa.Table:
    """Source rows -> `pair_id` that the refined pair will have, and `source_id`."""
    ids = [
        pair_id(row["prompt"], row["seed"], row["bundle"], settings[row["sampler"]])
        for row in rows.select(["prompt", "seed", "bundle", "sampler"]).to_pylist()
    ]
    return pa.table({"pair_id": ids, "source_id": rows["pair_id"]})


def refine_packed(
    batch: Batch, *, wanted: ray.ObjectRef, settings: dict[str, str], refine: Refine, ignore_index: int
) -> Batch:
    """Stage: packed pairs -> packed pairs of those in `wanted` (source id -> new id) with refined masks."""
    new_ids: dict[str, str] = ray.get(wanted)
    chosen = np.array([row in new_ids for row in batch["pair_id"]], bool)
    kept = {name: values[chosen] for name, values in batch.items()}
    if not chosen.any():
        return kept
    ids = [str(row) for row in kept["pair_id"]]
    packed = pack_pairs(refine_masks({**kept, **decode_pairs(kept)}, ignore_index=ignore_index, **refine.dump()))
    packed |= {name: kept[name] for name in ("image", "confidence") if name in kept}  # as they were encoded
    packed["pair_id"] = np.array([new_ids[row] for row in ids], object)
    packed["sampler"] = np.array([settings[text] for text in kept["sampler"]], object)
    return packed


def _with_refine(provenance: str | None, refine: Refine, source: str) -> str:
    if provenance is None:
        raise ConfigError(f"{source} holds real pairs; only the masks of a generate run can be refined again")
    values = json.loads(provenance)
    if "refine" not in values:
        raise ConfigError(
            f"{source} holds pairs of jobs.multiply or jobs.label, whose masks no sampler drew; only the masks of a "
            "generate run can be refined again"
        )
    if values["refine"]["min_area_px"] or values["refine"]["fill_holes_px"]:
        raise ConfigError(
            f"{source} was made with {values['refine']}; what that removed cannot come back. "
            "Generate with --refine.min-area-px 0 first"
        )
    return canonical_json({**values, "refine": refine.dump()})
