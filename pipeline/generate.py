"""Generate: prompts -> sampler actors -> refined masks -> packed pairs -> Parquet shards."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import ray.data
from pydantic import Field

from models.labels import LabelSpace
from models.reverse import SamplerSettings, with_preset
from models.weights import ENCODERS, JOINT, WeightsError, digest, read_facts
from pipeline.cluster import require
from pipeline.codec import ImageFormat
from pipeline.config import Config, RunConfig, Workers, absolute
from pipeline.errors import ConfigError, DataError
from pipeline.manifest import Manifest
from pipeline.run import Run, clock, log
from pipeline.schema import PROMPT, Batch, canonical_json, pair_id, pair_seed, prompt_id
from pipeline.shards import (
    FAILED,
    LABELS,
    MADE,
    list_shards,
    load_labels,
    map_shards,
    open_shard,
    read_shards,
    remaining,
    remove_drafts,
)
from pipeline.sink import WRITE_ARGS, ShardSink
from pipeline.stages.pack import refine_and_pack
from pipeline.stages.refine import refine_masks
from pipeline.stages.sample import SamplePairs

SAFE_TO_CHANGE = frozenset({"pairs", "rows_per_shard", "refine_on", "retry_errors", "log_every_s"})
MAX_BLOCKS = 4000


class Refine(Config):
    """Mask optimisation (JoDiffusion, section "Mask optimization")."""

    min_area_px: int = Field(20, ge=0)
    """Smaller components take the class around them; 0 turns refinement off. Paper: 20 at 512x512."""
    fill_holes_px: int = Field(0, ge=0)
    """Enclosed holes of background below this area take the class around them; 0 leaves them, as the paper does."""


class GenerateConfig(RunConfig):
    """Makes image/mask pairs from prompts."""

    bundle: str
    """Folder of the weights."""
    prompts: str
    """Text file with one prompt per line, or the folder of a run whose prompts are taken in order of their ids."""
    pairs: int = Field(ge=1)
    """Pairs to make; prompts are used in turn, each again with other noise until there are enough. Asking for more
    later makes just the difference."""
    sampler: SamplerSettings = SamplerSettings()
    """The reverse process."""
    preset: Literal["own", "faithful", "fast"] = "own"
    """"faithful" and "fast" replace steps, solver and guided steps of `sampler`: as in the paper, or with a fifth of
    the network evaluations (docs/sampling.md has what both cost and give). "own" leaves them as they are."""
    refine: Refine = Refine()
    """What is done to masks afterwards."""
    image_format: ImageFormat = "png"
    """"png" and "webp" are lossless; "jpeg" is quality 95 in 4:4:4."""
    keep_confidence: bool = False
    """Also store how sure the model was of each pixel, as an 8-bit picture."""
    rows_per_shard: int = Field(1000, ge=1)
    """Pairs per Parquet file, give or take half."""
    workers: Workers = Workers()
    """Sampler processes; with GPUs, one each."""
    refine_on: Workers = Workers(num=4)
    """Tasks that refine and pack, at most `num` at once."""
    retry_errors: bool = False
    """Try again what failed in an earlier start of this run."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines."""

    def resolved(self) -> GenerateConfig:
        """This config with the preset's values and the bundle's guidance in `sampler`: all that decides a pair.

        Raises:
            WeightsError: no bundle.
        """
        sampler = self.sampler if self.preset == "own" else with_preset(self.sampler, self.preset)
        guidance = read_facts(absolute(self.bundle)).guidance
        return self.model_copy(update={"sampler": sampler.resolved(guidance), "preset": "own"})

    def provenance(self) -> str:
        """Canonical JSON of all that decides a pair besides prompt, seed and bundle; the column `sampler`."""
        assert self.preset == "own" and self.sampler.guidance is not None, "only a resolved config knows"
        return canonical_json({"sampler": asdict(self.sampler), "refine": self.refine.dump()})


def generate(config: GenerateConfig) -> Manifest:
    """Makes the pairs that `config.run` does not hold yet; returns what it holds then.

    Raises:
        ConfigError, DataError, ShardError, WeightsError: each says what is wrong, where, and how to mend it.
    """
    bundle = Path(absolute(config.bundle))
    if not bundle.is_dir():
        raise WeightsError(f"{bundle}: no such bundle; train one (jobs.train_joint) or mend the key `bundle`")
    config = config.resolved()
    read_prompts(config.prompts)  # before the run is begun
    with Run.open(config, "generate", SAFE_TO_CHANGE) as run:
        folder = str(run.folder)
        remove_drafts(folder)
        labels = load_labels(str(bundle))
        labels.save(run.folder / LABELS)
        bundle_digest = digest(bundle, ENCODERS + JOINT)
        refuse_other_bundle(folder, bundle_digest)
        planned = plan(config, bundle_digest)
        todo = remaining(planned, folder, config.retry_errors)
        log.info(
            "generate: %d pairs planned, %d to make, with bundle %s, %d steps, guidance %g",
            planned.num_rows,
            todo.num_rows,
            bundle_digest,
            config.sampler.steps,
            config.sampler.guidance,
        )
        if todo.num_rows:
            require(config.workers)
            with watched(config, run, planned.num_rows - todo.num_rows):
                graph(blocks(todo, config.sampler.batch_size), config, labels, bundle_digest).write_datasink(
                    ShardSink(folder, config.rows_per_shard), ray_remote_args=WRITE_ARGS
                )
        return finish(run)


def refuse_other_bundle(folder: str, bundle_digest: str) -> None:
    """Raises ConfigError where a run holds pairs of other weights: with new ones it would be a set of two models."""
    if not list_shards(folder):
        return
    found = set(read_shards([folder], ["bundle"])["bundle"].unique().to_pylist())
    if found - {bundle_digest}:
        raise ConfigError(
            f"{folder} holds pairs of bundle {', '.join(sorted(map(str, found)))}, but the weights are now "
            f"{bundle_digest}; take another --run name, or give the weights that the run began with"
        )


def plan(config: GenerateConfig, bundle_digest: str) -> pa.Table:
    """PROMPT rows of all pairs of a run. Ids and seeds follow from content; a longer plan begins like a shorter one."""
    prompts = read_prompts(config.prompts)
    ids = {prompt: prompt_id(prompt) for prompt in set(prompts)}
    provenance = config.provenance()
    uses: Counter[str] = Counter()
    rows = []
    for index in range(config.pairs):
        prompt = prompts[index % len(prompts)]
        seed = pair_seed(config.seed, ids[prompt], uses[prompt])
        rows.append((pair_id(prompt, seed, bundle_digest, provenance), ids[prompt], prompt, seed, uses[prompt]))
        uses[prompt] += 1
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), PROMPT, strict=True)],
        schema=PROMPT,
    )


def read_prompts(source: str) -> list[str]:
    """Prompts of a text file, in its order, or of a run, in the order of their pair ids.

    Raises:
        DataError: missing, not text, or without prompts.
    """
    path = Path(source)
    if path.is_dir():
        rows = read_shards([source], ["pair_id", "prompt"]).sort_by("pair_id")
        return [prompt or "" for prompt in rows["prompt"].to_pylist()]
    try:
        prompts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{source}: cannot read prompts ({error}); give a UTF-8 text file, one prompt per line"
        ) from error
    if not any(prompt.strip() for prompt in prompts):
        raise DataError(f"{source}: holds no prompts; write one per line")
    return prompts


def blocks(todo: pa.Table, batch_size: int) -> ray.data.Dataset:
    """The work in blocks of whole sampler batches: short ones would be padded, few big ones would idle the actors."""
    rows = batch_size * max(1, math.ceil(todo.num_rows / (batch_size * MAX_BLOCKS)))
    return ray.data.from_arrow([todo.slice(start, rows) for start in range(0, todo.num_rows, rows)])


def graph(
    prompts: ray.data.Dataset, config: GenerateConfig, labels: LabelSpace, bundle_digest: str
) -> ray.data.Dataset:
    """PROMPT rows -> packed PAIR rows, and rows with an `error`."""
    workers, refine_on = config.workers, config.refine_on
    sampled = prompts.map_batches(
        SamplePairs,
        fn_constructor_args=(
            absolute(config.bundle),
            config.sampler,
            "cuda" if workers.gpus else "cpu",
            workers.threads,
        ),
        batch_size=config.sampler.batch_size,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        compute=ray.data.ActorPoolStrategy(size=workers.num),
    )
    return sampled.map_batches(
        partial(
            refine_and_pack,
            refine=config.refine.dump(),
            ignore_index=labels.ignore_index,
            image_format=config.image_format,
            keep_confidence=config.keep_confidence,
            origin={"origin": "synthetic", "bundle": bundle_digest, "sampler": config.provenance()},
        ),
        batch_size=config.sampler.batch_size,
        # Never 0.5, the writer's share: Ray would fuse the two and bundle raw pictures instead of packed ones.
        num_cpus=refine_on.cpus if refine_on.cpus != WRITE_ARGS["num_cpus"] else refine_on.cpus + 0.01,
        compute=ray.data.TaskPoolStrategy(size=refine_on.num),
    )


def finish(run: Run) -> Manifest:
    """Derives the manifest from the shards and logs what is in them."""
    manifest = Manifest.scan(str(run.folder))
    manifest.save(str(run.folder / "manifest.json"))
    run.tracker.artifact(run.folder / "manifest.json")
    run.tracker.metrics({"pairs": manifest.num_pairs, "errors": manifest.num_errors, "bytes": manifest.num_bytes})
    log.info("generate: %d pairs and %d errors in %s", manifest.num_pairs, manifest.num_errors, run.folder)
    for reason, count in manifest.errors_by_reason.items():
        log.info("generate: %d rows failed: %s (see errors/)", count, reason)
    return manifest


@contextmanager
def watched(config: GenerateConfig, run: Run, already: int) -> Iterator[None]:
    """Prints and logs progress while the graph runs, from the shards that are there, and the throughput in the end."""
    began, stop = time.monotonic(), threading.Event()

    def show() -> float:
        made = count_rows(str(run.folder)) - already
        seconds = time.monotonic() - began
        rate = made / seconds
        left_s = (config.pairs - already - made) / rate if rate else math.inf
        left = f"{clock(left_s)} left" if rate else "first shard on its way"
        log.info("generate: %d of %d pairs  %.1f/s  %s", already + made, config.pairs, rate, left)
        run.tracker.metrics({"pairs_per_s": rate, "pairs_done": already + made}, step=round(seconds))
        return rate

    def watch() -> None:
        while not stop.wait(config.log_every_s):
            show()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    throughput = {"pairs_per_s": show(), "seconds": time.monotonic() - began, "samplers": config.workers.num}
    (run.folder / "throughput.json").write_text(json.dumps(throughput, indent=1))


def count_rows(folder: str) -> int:
    """Rows in shards and errors, from footers."""

    def count(path: str) -> int:
        with open_shard(path) as shard:
            return shard.metadata.num_rows

    return sum(map_shards(count, [*list_shards(folder, MADE), *list_shards(folder, FAILED)]))


def remake(row: dict[str, object], bundle: str, device: str = "cpu") -> Batch:
    """Makes one pair again, alone, from its row: same noise, and on the same kind of device the same pixels and mask.

    Args:
        row: a row of PAIR, at least `prompt`, `seed`, `bundle` and `sampler`.
        bundle: folder of the weights.

    Returns:
        `image` (1, H, W, 3), `mask` (1, H, W), and what else the stages give.

    Raises:
        ConfigError: the row was made with other weights.
    """
    found = digest(bundle, ENCODERS + JOINT)
    if found != row["bundle"]:
        raise ConfigError(f"the row was made with bundle {row['bundle']}, but {bundle} is {found}")
    settings = json.loads(str(row["sampler"]))
    try:
        sampler = SamplerSettings(**settings["sampler"])
    except TypeError as error:
        raise ConfigError(f"the row was made by another version of this project: {error}; use that version") from error
    stage = SamplePairs(bundle, sampler, device)
    sampled = stage({"prompt": np.array([row["prompt"]], object), "seed": np.array([row["seed"]])})
    return refine_masks(sampled, **settings["refine"], ignore_index=stage.sampler.bundle.encoders.labels.ignore_index)
