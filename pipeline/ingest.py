"""Ingest: a real data set -> PAIR shards, the same table that the generator writes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import ray.data
from pydantic import Field

from models.labels import GARMENTS
from pipeline.cluster import require
from pipeline.config import RunConfig, Workers
from pipeline.datasets.builtin import BuiltinScenes
from pipeline.manifest import Manifest
from pipeline.run import Run, log
from pipeline.schema import Batch, real_pair_id
from pipeline.shards import LABELS, remaining, remove_drafts
from pipeline.sink import WRITE_ARGS, ShardSink
from pipeline.stages.pack import pack_pairs
from pipeline.storage import write_bytes

SAFE_TO_CHANGE = frozenset({"pairs", "rows_per_shard"})


class IngestConfig(RunConfig):
    """Reads a real data set into PAIR shards."""

    dataset: Literal["builtin"] = "builtin"
    """"builtin": composited real photographs with exact masks, made on the fly."""
    split: Literal["train", "validation", "test"] = "train"
    """Splits share neither garments nor photographs."""
    pairs: int = Field(4096, ge=1)
    """Pairs to read."""
    size_px: int = Field(64, ge=32)
    """Side of the square pictures."""
    rows_per_shard: int = Field(512, ge=1)
    """Pairs per Parquet file."""
    workers: Workers = Workers(num=2)
    """Reading processes."""


class ReadScenes:
    """Stage: `key` -> `image`, `mask`, `prompt` of the built-in data."""

    def __init__(self, split: str, seed: int, size_px: int) -> None:
        self.scenes = BuiltinScenes(split, seed, size_px)

    def __call__(self, batch: Batch) -> Batch:
        scenes = [self.scenes(int(index)) for index in batch["index"]]
        return {
            "pair_id": batch["pair_id"],
            "prompt": np.array([scene.prompt for scene in scenes], object),
            "seed": batch["index"],
            "image": np.stack([scene.image for scene in scenes]),
            "mask": np.stack([scene.mask for scene in scenes]),
            "origin": np.full(len(scenes), "real", object),
        }


def ingest(config: IngestConfig) -> Manifest:
    """Writes what `config.run` does not hold yet; returns what it holds then."""
    with Run.open(config, "ingest", SAFE_TO_CHANGE, on_store=True) as run:
        remove_drafts(str(run.folder))
        write_bytes(f"{run.folder}/{LABELS}", GARMENTS.to_json().encode())
        todo = remaining(plan(config), str(run.folder))
        log.info("ingest: %d of %d pairs of %s/%s to read", todo.num_rows, config.pairs, config.dataset, config.split)
        if todo.num_rows:
            require(config.workers)
            blocks = max(config.workers.num, todo.num_rows // 256)
            graph(ray.data.from_arrow(todo, override_num_blocks=blocks), config).write_datasink(
                ShardSink(str(run.folder), config.rows_per_shard), ray_remote_args=WRITE_ARGS
            )
        manifest = Manifest.scan(str(run.folder))
        manifest.save(str(run.folder / "manifest.json"))
        run.tracker.metrics({"pairs": manifest.num_pairs, "errors": manifest.num_errors})
        log.info("ingest: %d pairs in %s", manifest.num_pairs, run.folder)
        return manifest


def plan(config: IngestConfig) -> pa.Table:
    """One row per pair: `pair_id`, `index`."""
    indices = np.arange(config.pairs)
    name = f"{config.dataset}/{config.split}/{config.seed}/{config.size_px}"
    return pa.table({"pair_id": [real_pair_id(name, str(index)) for index in indices], "index": indices})


def graph(work: ray.data.Dataset, config: IngestConfig) -> ray.data.Dataset:
    """Rows of work -> packed pairs."""
    return work.map_batches(
        ReadScenes,
        fn_constructor_args=(config.split, config.seed, config.size_px),
        batch_size=256,
        num_cpus=config.workers.cpus,
        compute=ray.data.ActorPoolStrategy(size=config.workers.num),
    ).map_batches(pack_pairs, batch_size=256, num_cpus=1)
