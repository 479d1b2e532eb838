"""Generate: prompts -> sampler actors -> refined masks -> packed pairs -> Parquet shards."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Literal

import ray.data
from pydantic import Field

from models.labels import LabelSpace
from models.reverse import PRESETS, SamplerSettings, with_preset
from models.weights import ENCODERS, JOINT, WeightsError, digest, read_facts
from pipeline.base.config import Workers, absolute
from pipeline.base.errors import ShardError, Stopped
from pipeline.base.log import log
from pipeline.cluster.connection import require
from pipeline.cluster.finish import finish
from pipeline.cluster.progress import Shared, Timed
from pipeline.cluster.sink import WRITE_ARGS, ShardSink
from pipeline.cluster.tasks import MAX_RETRIES, plain_errors
from pipeline.cluster.todo import Work, find_work, load_prompts
from pipeline.cluster.watch import Watch
from pipeline.pictures.codec import ImageFormat
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.stages.guard import Guard
from pipeline.stages.pack import refine_and_pack
from pipeline.stages.refine import Refine
from pipeline.stages.sample import SamplePairs
from pipeline.storage.copies import local_copy
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import canonical_json
from pipeline.tables.label_space import LABELS, load_labels
from pipeline.tables.manifest import THROUGHPUT, Manifest
from pipeline.tables.schema import Batch
from pipeline.tables.shards import remove_drafts

SAFE_TO_CHANGE = frozenset(
    {
        "bundle", "prompts",  # their digests must not change
        "pairs", "rows_per_shard", "shard_mb", "refine_on", "retry_errors", "log_every_s", "gpu_hour_price",
    }
)  # fmt: skip


class GenerateConfig(RunConfig):
    """Makes image/mask pairs from prompts."""

    bundle: str
    """Folder of the weights, a path or a URL."""
    prompts: str
    """A text file with one prompt per line, .jsonl or .parquet with a column `prompt` (and `weight`), or the folder of
    a run whose captions are taken; a path or a URL."""
    pairs: int = Field(ge=1)
    """Pairs to make; prompts are used in turn, each as often as its weight asks, with other noise every time. Asking
    for more later makes just the difference."""
    sampler: SamplerSettings = SamplerSettings()
    """The reverse process."""
    preset: Literal["own", "faithful", "fast"] = "own"
    """"faithful" and "fast" replace steps, solver and guided steps of `sampler`: as in the paper, or with a fifth of
    the network evaluations (docs/sampling.md has what both cost and give). "own" leaves them as they are."""
    refine: Refine = Refine()
    """What is done to masks afterwards."""
    image_format: ImageFormat = "webp"
    """"webp" and "png" are lossless, webp is faster and smaller; "jpeg" is quality 95 in 4:4:4."""
    keep_confidence: bool = False
    """Also store how sure the model was of each pixel, as an 8-bit picture."""
    shard_mb: int = Field(384, ge=1)
    """Megabytes per Parquet file, give or take a third. Pairs that wait for their shard are lost with a lost node."""
    rows_per_shard: int = Field(0, ge=0)
    """Pairs per Parquet file instead, give or take half; 0 goes by `shard_mb`."""
    workers: Workers = Workers()
    """Sampler processes; with GPUs, one each."""
    refine_on: Workers = Workers(num=4)
    """Tasks that refine and pack, at most `num` at once."""
    retry_errors: bool = False
    """Try again what failed in an earlier start of this run."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines, and between points in MLflow."""
    gpu_hour_price: float = Field(0.0, ge=0)
    """Price of an hour of one GPU, in any currency, to show what the run has cost; 0 shows nothing."""

    def resolved(self) -> GenerateConfig:
        """This config with the preset's values and the bundle's guidance in `sampler`: all that decides a pair.

        Raises:
            WeightsError: no bundle.
        """
        sampler = self.sampler if self.preset == "own" else with_preset(self.sampler, self.preset)
        for key in PRESETS.get(self.preset, ()):
            own, default, taken = (getattr(one, key) for one in (self.sampler, SamplerSettings(), sampler))
            if own not in (default, taken):
                log.warning("preset %s takes sampler.%s %s, not %s", self.preset, key, taken, own)
        guidance = read_facts(local_copy(absolute(self.bundle))).guidance
        return self.model_copy(update={"sampler": sampler.resolved(guidance), "preset": "own"})

    def provenance(self) -> str:
        """Canonical JSON of all that decides a pair besides prompt, seed and bundle; the column `sampler`."""
        assert self.preset == "own" and self.sampler.guidance is not None, "only a resolved config knows"
        return canonical_json({"sampler": asdict(self.sampler), "refine": self.refine.dump()})


def generate(config: GenerateConfig) -> Manifest:
    """Makes the pairs that `config.run` does not hold yet; returns what it holds then.

    Raises:
        ConfigError, DataError, ShardError, WeightsError: each says what is wrong, where, and how to mend it.
        Stopped: SIGINT; what had begun is written.
    """
    bundle = local_copy(absolute(config.bundle))
    if not bundle.is_dir():
        raise WeightsError(f"{bundle}: no such bundle; train one (jobs.train_joint) or mend the key `bundle`")
    config = config.resolved()
    bundle_digest = digest(bundle, ENCODERS + JOINT)
    prompts = load_prompts(absolute(config.prompts))  # before the run is begun
    facts = {"bundle_digest": bundle_digest, "prompts_digest": prompts.digest}
    with Run.open(config, "generate", SAFE_TO_CHANGE, facts, on_store=True) as run:
        folder = str(run.folder)
        remove_drafts(folder)
        labels = load_labels(str(bundle))
        write_bytes(f"{folder}/{LABELS}", labels.to_json().encode())
        find = partial(
            find_work,
            prompts,
            folder,
            num_pairs=config.pairs,
            run_seed=config.seed,
            bundle_digest=bundle_digest,
            sampler_settings=config.provenance(),
        )
        work = find(retry_errors=config.retry_errors)
        log.info(
            "generate: %s pairs of %s prompts planned, %s to make, with bundle %s, %d steps, guidance %g",
            f"{config.pairs:,}",
            f"{prompts.num:,}",
            f"{work.todo:,}",
            bundle_digest,
            config.sampler.steps,
            config.sampler.guidance,
        )
        while work.todo:
            require(config.workers)
            make(work, config, run, labels, bundle_digest)
            before, work = work.todo, find(retry_errors=False)
            if work.todo >= before:
                raise ShardError(
                    f"{work.todo:,} planned pairs are not in {folder} though they were made; do all machines see this "
                    "place? Then run the same command again"
                )
            if work.todo:
                log.info("generate: %s pairs were lost on the way and are made again", f"{work.todo:,}")
        return finish(run)


def make(work: Work, config: GenerateConfig, run: Run, labels: LabelSpace, bundle_digest: str) -> None:
    """Runs the graph on what is left, watched."""
    shared = Shared.start()
    watch = Watch(
        job="generate",
        run=run,
        shared=shared,
        workers={"sample": config.workers.num, "refine": config.refine_on.num, "write": 1},
        already=config.pairs - work.todo,
        planned=config.pairs,
        gpus=config.workers.num * config.workers.gpus,
        gpu_hour_price=config.gpu_hour_price,
        every_s=config.log_every_s,
    )
    sink = ShardSink(str(run.folder), config.rows_per_shard, shard_bytes=config.shard_mb * 10**6, shared=shared)
    try:
        with watch():
            pairs = graph(work.dataset(config.sampler.batch_size), config, labels, bundle_digest, shared)
            with plain_errors():
                pairs.write_datasink(sink, ray_remote_args=WRITE_ARGS)
    finally:
        with suppress(ray.exceptions.RayError):  # the connection may be what failed
            write_bytes(f"{run.folder}/{THROUGHPUT}", json.dumps(watch.throughput(), indent=1).encode())
    if watch.stopped:
        manifest = finish(run)
        raise Stopped(f"stopped: {manifest.num_pairs:,} of {config.pairs:,} pairs are in {run.folder}")


class Sampler:
    """The stages of a sampler process: pairs from prompts, guarded and timed."""

    def __init__(
        self, bundle: str, digest: str, settings: SamplerSettings, device: str, threads: int, shared: Shared
    ) -> None:
        sample = SamplePairs(str(local_copy(bundle)), settings, device, threads, digest)
        self.stage = Timed("sample", Guard(sample, shared), shared, new_errors=True)

    def __call__(self, batch: Batch) -> Batch:
        return self.stage(batch)


def graph(
    prompts: ray.data.Dataset, config: GenerateConfig, labels: LabelSpace, bundle_digest: str, shared: Shared
) -> ray.data.Dataset:
    """PROMPT rows -> packed PAIR rows, and rows with an `error`."""
    workers, refine_on = config.workers, config.refine_on
    device = "cuda" if workers.gpus else "cpu"
    sampled = prompts.map_batches(
        Sampler,
        fn_constructor_args=(
            absolute(config.bundle), bundle_digest, config.sampler, device, workers.threads, shared,
        ),
        batch_size=config.sampler.batch_size,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        compute=ray.data.ActorPoolStrategy(size=workers.num),
    )  # fmt: skip
    pack = partial(
        refine_and_pack,
        refine=config.refine.dump(),
        ignore_index=labels.ignore_index,
        image_format=config.image_format,
        keep_confidence=config.keep_confidence,
        origin={"origin": "synthetic", "bundle": bundle_digest, "sampler": config.provenance()},
    )
    return sampled.map_batches(
        Timed("refine", pack, shared).__call__,
        batch_size=config.sampler.batch_size,
        # Never 0.5, the writer's share: Ray would fuse the two and bundle raw pictures instead of packed ones.
        num_cpus=refine_on.cpus if refine_on.cpus != WRITE_ARGS["num_cpus"] else refine_on.cpus + 0.01,
        max_retries=MAX_RETRIES,
        compute=ray.data.TaskPoolStrategy(size=refine_on.num),
    )
