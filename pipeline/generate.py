"""Generate: prompts -> sampler actors -> refined masks -> packed pairs -> Parquet shards."""

from __future__ import annotations

import os
from functools import partial

import ray.data
from pydantic import Field

from models.labels import LabelSpace
from models.reverse import SamplerSettings
from models.weights import ENCODERS, JOINT, WeightsError, digest, read_facts
from pipeline.base.config import Workers
from pipeline.base.log import log
from pipeline.base.places import FileOrFolder, SentFolder
from pipeline.cluster.drive import Left, drive
from pipeline.cluster.finish import finish
from pipeline.cluster.processes import Stage, ahead, in_processes, in_task_pool
from pipeline.cluster.progress import Shared
from pipeline.cluster.todo import Work, find_work, load_prompts
from pipeline.pictures.codec import ImageFormat
from pipeline.prompts.files import refuse_unknown
from pipeline.runs.config import RunConfig, saved_config
from pipeline.runs.run import Run
from pipeline.stages.pack import refine_and_pack
from pipeline.stages.redraw import BATCHES, SampleUntilExact
from pipeline.stages.refine import Refine
from pipeline.stages.sample import Preset, SamplePairs, check_files, chosen_settings
from pipeline.storage.copies import local_copy
from pipeline.storage.files import is_local
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import canonical_json
from pipeline.tables.label_space import LABELS, load_labels
from pipeline.tables.manifest import Manifest
from pipeline.tables.shards import FAILED, list_shards, remove_drafts

SAFE_TO_CHANGE = frozenset(
    {
        "bundle", "prompts",  # their digests must not change
        "pairs", "rows_per_shard", "shard_mb", "refine_on", "retry_errors", "log_every_s", "gpu_hour_price",
    }
)  # fmt: skip


class GenerateConfig(RunConfig):
    """Makes image/mask pairs from prompts."""

    bundle: SentFolder
    """Folder of the weights, a path or a URL."""
    prompts: FileOrFolder
    """A text file (.txt) with one prompt per line, .jsonl or .parquet with a column `prompt` (and `weight`), or the
    folder of a run whose captions are taken; a path or a URL. Blank prompts are dropped."""
    pairs: int = Field(ge=1, lt=2**31)
    """Pairs to make; prompts are used in turn, each as often as its weight asks, with other noise every time. Asking
    for more later makes just the difference."""
    sampler: SamplerSettings = SamplerSettings()
    """The reverse process."""
    preset: Preset = "own"
    """"faithful" and "fast" replace steps, solver and guided steps of `sampler`: as in the paper, or with a fifth of
    the network evaluations (docs/sampling.md has what both cost and give). "own" leaves them as they are."""
    refine: Refine = Refine()
    """What is done to masks afterwards."""
    redraws: int = Field(0, ge=0, le=100)
    """How often a pair is drawn again whose mask, refined, does not hold exactly the classes that its prompt names. The
    last draw stays, whatever it holds; the column `draws` says how many there were."""
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

    def check_inputs(self) -> None:
        super().check_inputs()
        if "://" not in self.bundle:
            read_facts(self.bundle)
        if not os.path.isdir(self.prompts):
            refuse_unknown(self.prompts)

    def resolved(self) -> GenerateConfig:
        """This config with the preset's values and the bundle's guidance in `sampler`: all that decides a pair.

        Raises:
            WeightsError: no bundle.
        """
        sampler = chosen_settings(self.sampler, self.preset, local_copy(self.bundle))
        return self.model_copy(update={"sampler": sampler, "preset": "own"})

    def provenance(self) -> str:
        """Canonical JSON of all that decides a pair besides prompt, seed and bundle; the column `sampler`."""
        assert self.preset == "own" and self.sampler.guidance is not None, "only a resolved config knows"
        made_with = {"sampler": self.sampler.recorded(), "refine": self.refine.dump()}
        if self.redraws:  # else as in releases that knew nothing of it
            # Refinement is told twice: later it may be another one, but draws were judged by this one.
            made_with["redraws"] = {"redraws": self.redraws, "refine": self.refine.dump()}
        return canonical_json(made_with)

    @property
    def rows_at_once(self) -> int:
        """Rows that a sampling process takes."""
        return self.sampler.batch_size * (BATCHES if self.redraws else 1)


def generate(config: GenerateConfig) -> Manifest:
    """Makes the pairs that `config.run` does not hold yet; returns what it holds then.

    Raises:
        ConfigError, DataError, ShardError, WeightsError: each says what is wrong, where, and how to correct it.
        ClusterError: processes or machines died too often.
        Stopped: SIGINT or SIGTERM; what had begun is written.
    """
    if not is_local(config.bundle):
        ahead(partial(local_copy, config.bundle), config.workers)
    bundle = local_copy(config.bundle)
    if not bundle.is_dir():
        raise WeightsError(f"{bundle}: no such bundle; train one (jobs.train_joint) or correct the key `bundle`")
    check_files(bundle)
    config = config.resolved()
    bundle_digest = digest(bundle, ENCODERS + JOINT)
    labels = load_labels(str(bundle))
    drawn = not _in_former_turns(str(config.folder))
    prompts = load_prompts(config.prompts, labels, drawn=drawn)  # before the run is begun
    facts = {"bundle_digest": bundle_digest, "prompts_digest": prompts.digest, **({"turns": "drawn"} if drawn else {})}
    with Run.open(config, "generate", SAFE_TO_CHANGE, facts, on_store=True, waits=False) as run:
        folder = str(run.folder)
        remove_drafts(folder)
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

        def left(work: Work) -> Left:
            rows = partial(work.dataset, config.rows_at_once)
            return Left(
                work.todo, lambda shared: graph(rows(shared), config, labels, bundle_digest, shared), work.later
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
        drive(
            run,
            "generate",
            left(work),
            lambda: left(find(retry_errors=False)),
            planned=config.pairs,
            stages={"sample": config.workers.num, "refine": config.refine_on.num},
            workers=config.workers,
            rows_per_shard=config.rows_per_shard,
            shard_bytes=config.shard_mb * 10**6,
            gpu_hour_price=config.gpu_hour_price,
            every_s=config.log_every_s,
        )
        return finish(run)


def _in_former_turns(folder: str) -> bool:
    """Whether a run was begun by an earlier release, whose plans were in another order."""
    saved = saved_config(folder)
    return bool(saved) and "turns" not in saved and bool(list_shards(folder) or list_shards(folder, FAILED))


def make_sampler(config: GenerateConfig, device: str, digest: str) -> Stage:
    """The stage of a sampling process; the bundle may lie on a store."""
    sample = SamplePairs(str(local_copy(config.bundle)), config.sampler, device, digest)
    return SampleUntilExact(sample, config.refine.dump(), config.redraws) if config.redraws else sample


def graph(
    prompts: ray.data.Dataset, config: GenerateConfig, labels: LabelSpace, bundle_digest: str, shared: Shared
) -> ray.data.Dataset:
    """PROMPT rows -> packed PAIR rows, and rows with an `error`."""
    device = "cuda" if config.workers.gpus else "cpu"
    sampled = in_processes(
        prompts,
        "sample",
        partial(make_sampler, config, device, bundle_digest),
        shared,
        config.workers,
        batch_size=config.rows_at_once,
        reason="sampler_died",
    )
    pack = partial(
        refine_and_pack,
        refine=config.refine.dump(),
        ignore_index=labels.ignore_index,
        image_format=config.image_format,
        keep_confidence=config.keep_confidence,
        origin={"origin": "synthetic", "bundle": bundle_digest, "sampler": config.provenance()},
    )
    return in_task_pool(sampled, "refine", pack, shared, config.refine_on, batch_size=config.sampler.batch_size)
