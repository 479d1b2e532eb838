"""Refine again: the pairs of a run with other mask optimisation, without sampling anew."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pyarrow as pa
import ray.data
from pydantic import Field

from pipeline.base.config import Workers, absolute
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.cluster.finish import finish
from pipeline.cluster.sink import WRITE_ARGS, ShardSink
from pipeline.pictures.codec import decode_image, decode_mask
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.stages.pack import pack_pairs
from pipeline.stages.refine import Refine, refine_masks
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import canonical_json, pair_id
from pipeline.tables.label_space import LABELS, load_labels
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import read_shards, remaining
from pipeline.tables.schema import Batch
from pipeline.tables.shards import remove_drafts


class RefineConfig(RunConfig):
    """Writes the pairs of a generate run again, refined otherwise. Sample with `refine.min_area_px 0` to compare."""

    pairs: str
    """Folder of a generate run whose masks were not refined."""
    refine: Refine = Refine()
    """What to do to the masks."""
    rows_per_shard: int = Field(1000, ge=1)
    """Pairs per Parquet file, give or take half."""
    workers: Workers = Workers(num=2)
    """Tasks at once."""


def refine(config: RefineConfig) -> Manifest:
    """Writes what `config.run` does not hold yet; the rows equal those that generating with these settings would give.

    Raises:
        ConfigError: the source was refined already, so what was removed cannot come back.
    """
    source = absolute(config.pairs)
    with Run.open(config, "refine", frozenset({"rows_per_shard"}), on_store=True) as run:
        folder = str(run.folder)
        remove_drafts(folder)
        labels = load_labels(source)
        write_bytes(f"{folder}/{LABELS}", labels.to_json().encode())
        rows = read_shards([source], ["pair_id", "prompt", "seed", "bundle", "sampler"])
        settings = {text: _with_refine(text, config.refine, source) for text in set(rows["sampler"].to_pylist())}
        todo = remaining(plan(rows, settings), folder)
        log.info("refine: %d of %d pairs to write, %s", todo.num_rows, rows.num_rows, config.refine)
        if todo.num_rows:
            wanted = dict(zip(todo["source_id"].to_pylist(), todo["pair_id"].to_pylist(), strict=True))
            stage = partial(
                refine_packed,
                wanted=ray.put(wanted),
                settings=settings,
                refine=config.refine,
                ignore_index=labels.ignore_index,
            )
            # Small files are read as one block, which would keep one task busy and the others idle.
            read_pairs([source]).repartition(target_num_rows_per_block=256).map_batches(
                stage,
                batch_size=256,
                num_cpus=config.workers.cpus,
                compute=ray.data.TaskPoolStrategy(size=config.workers.num),
            ).write_datasink(ShardSink(folder, config.rows_per_shard), ray_remote_args=WRITE_ARGS)
        return finish(run)


def plan(rows: pa.Table, settings: dict[str, str]) -> pa.Table:
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
    arrays = {
        "image": np.stack([decode_image(cell["bytes"], row) for cell, row in zip(kept["image"], ids, strict=True)]),
        "mask": np.stack([decode_mask(cell["bytes"], row) for cell, row in zip(kept["mask"], ids, strict=True)]),
    }
    packed = pack_pairs(refine_masks({**kept, **arrays}, ignore_index=ignore_index, **refine.dump()))
    packed |= {name: kept[name] for name in ("image", "confidence") if name in kept}  # as they were encoded
    packed["pair_id"] = np.array([new_ids[row] for row in ids], object)
    packed["sampler"] = np.array([settings[text] for text in kept["sampler"]], object)
    return packed


def _with_refine(provenance: str | None, refine: Refine, source: str) -> str:
    if provenance is None:
        raise ConfigError(f"{source} holds real pairs; only the masks of a generate run can be refined again")
    values = json.loads(provenance)
    if values["refine"]["min_area_px"] or values["refine"]["fill_holes_px"]:
        raise ConfigError(
            f"{source} was made with {values['refine']}; what that removed cannot come back. "
            "Generate with --refine.min-area-px 0 first"
        )
    return canonical_json({**values, "refine": refine.dump()})
