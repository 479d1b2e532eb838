"""Score: what each pair of a run is worth, as columns in tables of their own; one kind of score after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch
from pydantic import Field, model_validator

from models.labels import LabelSpace
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import Folder, NameOrPlace, as_given
from pipeline.cluster.drive import Left, drive
from pipeline.cluster.finish import finish
from pipeline.cluster.processes import Stage, in_processes
from pipeline.cluster.progress import Shared
from pipeline.cluster.tasks import MAX_RETRIES, get
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.stages import score_judge, score_nearest, score_plain, score_text
from pipeline.stages.score_plain import Unwanted
from pipeline.storage.copies import local_copy
from pipeline.tables.digest import DataDigest
from pipeline.tables.ids import canonical_json, text_digest
from pipeline.tables.label_space import common_labels
from pipeline.tables.rows import read_ids
from pipeline.tables.scores import COLUMNS, Kind, copies_in, score_schema
from pipeline.tables.shards import MADE, open_shard, remove_drafts
from pipeline.training.config import require_one_each
from pipeline.training.feed import Feed
from pipeline.training.judging import HELD_OUT_SHARE
from pipeline.training.order import groups_of, ids_of, parted
from pipeline.training.proving import Proving
from pipeline.training.sets import Labels, TrainingSet, origins
from pipeline.training.tasks.segmenter import SegmenterTask
from pipeline.training.terms import SegmenterKeys

ROWS_PER_BATCH = 64
JUDGE = "judge"


class ScoreConfig(SegmenterKeys):
    """Says of every pair what it is worth. Nothing is removed; `jobs.curate` chooses by it."""

    pairs: Folder
    """Run whose pairs get scores."""
    kinds: tuple[Kind, ...] = ()
    """Which kinds: "plain" needs nothing else, "text" needs `clip`, "judge" and "nearest" need `real`. Empty takes all
    that can be made."""
    real: tuple[Folder, ...] = ()
    """Runs of real labelled pairs: the judge learns from them, and what generated pairs are like is looked for there.
    Give what the generator learned from, or copies of it are not found."""
    slices: tuple[str, ...] = ()
    """Which pairs of each, as START:STOP in the order of their ids."""
    validation: Folder = ""
    """Run of further real labelled pairs that say how sure the judge usually is. Empty holds a fifth of `real` out."""
    validation_rows: int = Field(1024, ge=1)
    """Of these, at most."""
    clip: NameOrPlace = ""
    """A whole CLIP as a folder or a name on the Hugging Face hub, such as that of `jobs.train_clip` in
    <run>/weights/clip, for what pictures and words have to do with each other."""
    shuffles: int = Field(3, ge=0)
    """Of each picture, that `clip_perturbation` is the mean over."""
    embedder: NameOrPlace = ""
    """CLIP, its image tower or DINOv2, as a folder or a name on the Hugging Face hub, for what is near; without it
    pictures are compared at 16 x 16 pixels, which finds copies but not what is alike in kind."""
    unwanted: Unwanted = Unwanted()
    """Words of prompts and classes that nobody wants."""
    rows_per_shard: int = Field(50_000, ge=1)
    """Rows of scores per Parquet file, give or take half."""

    @model_validator(mode="after")
    def _can_be_made(self) -> ScoreConfig:
        require_one_each(self.real, self.slices, key="real")
        needs = {"text": ("clip", self.clip), "judge": ("real", self.real), "nearest": ("real", self.real)}
        for kind in self.kinds:
            key, given = needs.get(kind, ("", True))
            if not given:
                raise ValueError(f"kinds: {kind} needs `{key}`: give it, or leave the kind out")
        return self

    @property
    def wanted(self) -> tuple[Kind, ...]:
        """The kinds that are made."""
        can = {"plain": True, "text": bool(self.clip), "judge": bool(self.real), "nearest": bool(self.real)}
        return self.kinds or tuple(kind for kind in COLUMNS if can[kind])


class KindOfScores(RunConfig):
    """What the scores of one kind are bound to."""

    pairs: Folder
    """Run whose pairs have scores."""
    made_with: str
    """Canonical JSON of all that they depend on besides."""
    rows_per_shard: int = 50_000
    """Rows per Parquet file, give or take half."""
    workers: Workers = Workers()
    """Processes."""


@dataclass(frozen=True)
class Scorer:
    """How a kind of score is made.

    Attributes:
        columns: of PAIR that it looks at.
        made_with: all that it depends on besides the pairs.
        make: makes its stage in a process.
    """

    columns: tuple[str, ...]
    made_with: str
    make: Callable[[], Stage]


def score(config: ScoreConfig) -> None:
    """Writes the scores that `<run>/<kind>` do not hold yet.

    Raises:
        ConfigError, DataError, ShardError: each says what is wrong, where, and how to correct it.
        Stopped: SIGINT or SIGTERM; what had begun is written.
    """
    labels = common_labels([config.pairs, *config.real, *([config.validation] if config.validation else [])])
    if unknown := set(config.unwanted.classes) - set(labels.classes):
        raise ConfigError(
            f"unwanted.classes: {', '.join(sorted(unknown))} is no class; there are {', '.join(labels.classes)}"
        )
    if made := [as_given(folder) for folder in config.real if "synthetic" in origins(folder)]:
        raise ConfigError(f"real: {', '.join(made)} holds generated pairs; give real ones")
    with Run.open(config, "score", frozenset(ScoreConfig.model_fields), on_store=True) as run:
        log.info("score: %s of %s", ", ".join(config.wanted), as_given(config.pairs))
        scorers = {"plain": plain_scorer, "text": text_scorer, "judge": judge_scorer, "nearest": nearest_scorer}
        for kind in config.wanted:
            score_kind(kind, scorers[kind](config, labels, run), config)
        if "nearest" in config.wanted and (found := copies_in(str(run.folder))):
            run.tracker.metrics({"copies": found.rows.num_rows})
            told = log.warning if found.some else log.info
            told("score: in %s, %s", as_given(config.pairs), found)


def score_kind(kind: Kind, scorer: Scorer, config: ScoreConfig) -> None:
    """Writes what is missing of one kind."""
    own = KindOfScores(
        run=f"{config.run}/{kind}",
        runs=config.runs,
        experiment=config.experiment,
        tracking_uri=config.tracking_uri,
        pairs=config.pairs,
        made_with=scorer.made_with,
        rows_per_shard=config.rows_per_shard,
        workers=config.workers,
    )
    with Run.open(own, "score", frozenset({"rows_per_shard"}), on_store=True) as run:
        folder = str(run.folder)
        remove_drafts(folder)
        planned = len(ids_of(config.pairs))

        def left() -> Left:
            done = pc.unique(read_ids(folder, kinds=[MADE]))
            return Left(planned - len(done), lambda shared: graph(scorer, config, done, shared))

        drive(
            run,
            f"score {kind}",
            left(),
            left,
            planned=planned,
            stages={"score": config.workers.num},
            workers=config.workers,
            schema=score_schema(kind),
            rows_per_shard=config.rows_per_shard,
        )
        finish(run)


def graph(scorer: Scorer, config: ScoreConfig, done: pa.Array, shared: Shared) -> ray.data.Dataset:
    """Pairs -> their scores, of those that are not `done`."""
    rows = read_pairs([config.pairs], list(scorer.columns))
    if len(done):
        left = partial(not_done, done=ray.put(done))
        rows = rows.map_batches(left, batch_size=ROWS_PER_BATCH, batch_format="pyarrow", max_retries=MAX_RETRIES)
    return in_processes(
        rows, "score", scorer.make, shared, config.workers, batch_size=ROWS_PER_BATCH, batch_format="pyarrow"
    )


def not_done(rows: pa.Table, *, done: ray.ObjectRef) -> pa.Table:
    """Stage: the rows whose ids are not among those in Ray's object store."""
    return rows.filter(pc.invert(pc.is_in(rows["pair_id"], ray.get(done))))


def plain_scorer(config: ScoreConfig, labels: LabelSpace, run: Run) -> Scorer:
    """Scores that need nothing else."""
    made_with = canonical_json({"version": 1, "unwanted": config.unwanted.dump()})
    stage = partial(score_plain.plain_scores, labels=labels, unwanted=config.unwanted, made_by=made_with)
    return Scorer(score_plain.READ, made_with, lambda: stage)


def text_scorer(config: ScoreConfig, labels: LabelSpace, run: Run) -> Scorer:
    """Scores by a CLIP."""
    made_with = canonical_json({"version": 1, "clip": config.clip, "shuffles": config.shuffles})
    device = "cuda" if config.workers.gpus else "cpu"
    make = partial(score_text.make_text, config.clip, labels, config.shuffles, made_with, device)
    return Scorer(score_text.READ, made_with, make)


def nearest_scorer(config: ScoreConfig, labels: LabelSpace, run: Run) -> Scorer:
    """Scores by the real pairs; embeds these first."""
    log.info("score nearest: looking at the real pairs")
    device = "cuda" if config.workers.gpus else "cpu"
    task = ray.remote(describe_real).options(
        num_cpus=config.workers.cpus, num_gpus=config.workers.gpus, max_retries=MAX_RETRIES
    )
    content, copy_ratio = get(task.remote(config.real, config.slices, labels, config.embedder, device))
    data = [DataDigest.of(folder).digest for folder in config.real]
    facts = {"version": 1, "real": data, "slices": config.slices, "embedder": config.embedder, "copy_ratio": copy_ratio}
    made_with = canonical_json(facts)
    held = ray.put(content)
    return Scorer(
        score_nearest.READ,
        made_with,
        lambda: score_nearest.make_nearest(ray.get(held), config.embedder, device, made_with),
    )


def describe_real(
    folders: tuple[str, ...], slices: tuple[str, ...], labels: LabelSpace, embedder: str, device: str
) -> tuple[bytes, float]:
    """The real pairs as `make_nearest` takes them, and below which ratio a pair is a copy."""
    real = score_nearest.real_pairs(_tables(folders, slices), labels, embedder, device)
    return real.to_bytes(), round(real.copy_ratio, 6)


def judge_scorer(config: ScoreConfig, labels: LabelSpace, run: Run) -> Scorer:
    """Scores by segmenters of real pairs; trains these first."""
    folders, parts = list(config.real), list(config.slices or [":"] * len(config.real))
    held_out = (config.validation, ":")
    if not config.validation:
        parts[0], kept = parted(folders[0], parts[0], HELD_OUT_SHARE)
        held_out = (folders[0], kept)
    first = TrainingSet(train=tuple(folders), slices=tuple(parts))
    common = config.common(first, held_out[0], config.validation_rows, held_out[1])
    task = config.task(labels)
    proving = Proving(
        config.terms(first), task, common, {JUDGE: first}, config.seeds, [], Labels(), run, at_once=config.at_once
    )
    proving.train([JUDGE])
    weights, digests = zip(*(proving.weights(JUDGE, seed) for seed in range(config.seeds)), strict=True)
    device = "cuda" if config.workers.gpus else "cpu"
    measure = ray.remote(usual_losses).options(
        num_cpus=config.workers.cpus, num_gpus=config.workers.gpus, max_retries=MAX_RETRIES
    )
    usual = get(measure.remote(task, weights, *held_out, config.validation_rows, device))
    told = {
        name: None if np.isnan(one) else round(float(one), 4) for name, one in zip(labels.classes, usual, strict=True)
    }
    log.info("score judge: its usual loss by class: %s", told)
    facts = {"version": 1, "judge": text_digest(digests), "usual": told, "size_px": config.size_px}
    made_with = canonical_json(facts)
    return Scorer(
        score_judge.READ,
        made_with,
        partial(make_judge, task, weights, labels, usual, config.size_px, made_with, device),
    )


def make_judge(
    task: SegmenterTask,
    weights: tuple[str, ...],
    labels: LabelSpace,
    usual: np.ndarray,
    size_px: int,
    made_by: str,
    device: str,
) -> Stage:
    """The stage of a process that judges; the folders of `weights` may lie on a store."""
    return partial(
        score_judge.judge_scores,
        sees=_sees(task, weights, device),
        labels=labels,
        usual=usual,
        size_px=size_px,
        made_by=made_by,
    )


def usual_losses(
    task: SegmenterTask, weights: tuple[str, ...], folder: str, part: str, num_rows: int, device: str
) -> np.ndarray:
    """(K + 1,) what a segmenter's loss usually is in held-out real pairs, by class."""
    sees = _sees(task, weights, device)
    rows = Feed((folder,), task.columns, task.decode, slices=(part,)).head(num_rows)
    images, masks = rows["image"].numpy(), rows["mask"].numpy()
    shares = np.concatenate([sees(part) for part in np.array_split(images, -(-len(images) // ROWS_PER_BATCH))])
    return score_judge.usual_losses(shares, masks, task.labels.ignore_index)


def _sees(task: SegmenterTask, weights: tuple[str, ...], device: str) -> score_judge.Sees:
    nets = [task.load(local_copy(one)).to(device) for one in weights]
    return lambda images: task.shares(nets, torch.from_numpy(images).to(device)).float().cpu().numpy()


def _tables(folders: Sequence[str], slices: Sequence[str]) -> Iterator[pa.Table]:
    """The labelled rows of runs, a row group at a time."""
    for group in groups_of(folders, slices, labelled=True):
        with open_shard(group.path) as file:
            yield file.read_row_group(group.number, list(score_nearest.READ), use_threads=False).take(group.rows)
