"""Score: what each pair of a run is worth, as columns in tables of their own; one kind of score after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
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
from pipeline.curation.coverage import NEIGHBOURS
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.stages import score_judge, score_nearest, score_plain, score_safety, score_text
from pipeline.stages.score_plain import Unwanted
from pipeline.stages.score_safety import Safety
from pipeline.storage.publish import write_bytes
from pipeline.tables.digest import DataDigest
from pipeline.tables.ids import canonical_json, text_digest
from pipeline.tables.label_space import common_labels
from pipeline.tables.rows import read_ids
from pipeline.tables.scores import COVERAGE, Kind, begun, copies_in, read_coverage, score_schema
from pipeline.tables.shards import FAILED, MADE, remove_drafts
from pipeline.training.config import require_one_each
from pipeline.training.feed import Feed
from pipeline.training.judging import HELD_OUT_SHARE
from pipeline.training.order import groups_of, ids_of, parted, tables_of
from pipeline.training.proving import Proving
from pipeline.training.sets import Labels, TrainingSet, Varied, origins
from pipeline.training.tasks.segmenter import SegmenterTask
from pipeline.training.teacher import judges_of, seeing
from pipeline.training.terms import SegmenterKeys

ROWS_PER_BATCH = 64
JUDGE = "judge"
NEEDS: dict[Kind, str] = {
    "plain": "pairs", "text": "clip", "judge": "real", "nearest": "real", "safety": "safety.model"
}  # fmt: skip
"""The key that a kind of score cannot be made without."""
BESIDE_REAL = ("validation", "embedder", "judge_weights", "augmentation")
"""Keys that say nothing without `real`."""


class ScoreConfig(SegmenterKeys):
    """Says of every pair what it is worth. Nothing is removed; `jobs.curate` chooses by it."""

    pairs: Folder
    """Run whose pairs get scores."""
    kinds: tuple[Kind, ...] = ()
    """Which kinds: "plain" needs nothing else, "text" needs `clip`, "judge" and "nearest" need `real`, "safety" needs
    `safety.model`. Empty takes all that can be made."""
    real: tuple[Folder, ...] = ()
    """Runs of real pairs: the judge learns from those with masks, and what generated pairs are like is looked for among
    all. Give what the generator learned from, or copies of it are not found."""
    slices: tuple[str, ...] = ()
    """Which pairs of each, as START:STOP in the order of their ids."""
    validation: Folder = ""
    """Run of further real labelled pairs that say how sure the judge usually is. Empty holds a fifth of `real` out."""
    validation_rows: int = Field(1024, ge=1)
    """Of these, at most."""
    judge_weights: tuple[Folder, ...] = ()
    """Weights of trained segmenters (of `segmenter` and `width`) that judge together, in place of training one: such as
    <run>/<training>/weights of jobs.evaluate. They must have learned from real pairs, and not from `validation`."""
    augmentation: Varied | Literal[""] = ""
    """How pictures are varied for a judge that is trained here, as in sets of jobs.evaluate; "" is the usual way."""
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
    safety: Safety = Safety()
    """A network that finds pictures that nobody wants."""
    rows_per_shard: int = Field(50_000, ge=1)
    """Rows of scores per Parquet file, give or take half."""

    @model_validator(mode="after")
    def _can_be_made(self) -> ScoreConfig:
        require_one_each(self.real, self.slices, key="real")
        for kind in self.kinds:
            if kind not in self._possible:
                raise ValueError(f"kinds: {kind} needs `{NEEDS[kind]}`: give it, or leave the kind out")
        if not self.real and (idle := [key for key in BESIDE_REAL if getattr(self, key)]):
            raise ValueError(f"{', '.join(idle)}: only for scores by real pairs; give `real`, or leave it out")
        if self.judge_weights and not self.validation:
            raise ValueError("judge_weights: say with `validation` which real pairs these have not learned from")
        if self.judge_weights and self.augmentation:
            raise ValueError("augmentation is of a judge that is trained here; leave it out beside judge_weights")
        return self

    @property
    def device(self) -> str:
        """Where the networks of its processes run."""
        return "cuda" if self.workers.gpus else "cpu"

    @property
    def wanted(self) -> tuple[Kind, ...]:
        """The kinds that are made."""
        return self.kinds or self._possible

    @property
    def _possible(self) -> tuple[Kind, ...]:
        given = {"pairs": True, "clip": self.clip, "real": self.real, "safety.model": self.safety.model}
        return tuple(kind for kind, key in NEEDS.items() if given[key])


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
        for kind in config.wanted:
            score_kind(kind, SCORERS[kind](config, labels, run), config)
        if "nearest" in config.wanted and (found := copies_in(str(run.folder), ids_of(config.pairs))):
            run.tracker.metrics({"copies": found.rows.num_rows})
            told = log.warning if found.some else log.info
            told("score: in %s, %s", as_given(config.pairs), found)
        if "nearest" in config.wanted:
            cover(config, run)


def cover(config: ScoreConfig, run: Run) -> None:
    """Writes how much of the real pairs these cover, and how varied they are, as `coverage.json`; once for the same."""
    further = [((config.validation,), ())] if config.validation else []
    sets: list[tuple[Sequence[str], Sequence[str]]] = [(config.real, config.slices), ((config.pairs,), ()), *further]
    sizes = [sum(len(group.rows) for group in groups_of(*one)) for one in sets]
    if min(sizes[:2]) <= NEIGHBOURS:
        log.info("score: %d pictures are too few to say something of the set as a whole", min(sizes[:2]))
        return
    if min(sizes) <= NEIGHBOURS:
        log.warning("score: validation holds %d pictures, too few to compare the set as a whole with", sizes.pop())
        sets.pop()
    data = [(DataDigest.of(folder).digest, *slices) for folders, slices in sets for folder in folders]
    made_with = canonical_json({"version": 1, "sets": data, "embedder": config.embedder})
    found = read_coverage(str(run.folder))
    if found is None or found.made_with != made_with:
        read = [partial(tables_of, *one) for one in sets]
        task = in_a_task(score_nearest.describe_sets, config)
        found = get(task.remote(read, made_with, config.embedder, config.device))
        write_bytes(f"{run.folder}/{COVERAGE}", found.model_dump_json(indent=1).encode())
    run.tracker.metrics(found.found.model_dump(exclude={"pictures"}))
    log.info("score: %s", found)


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
        planned = pa.array(ids_of(config.pairs), pa.string())

        def left(kinds: Sequence[str] = (MADE, FAILED)) -> Left:
            done = pc.unique(read_ids(folder, kinds=kinds))  # also of pairs that a selection does not keep any more
            num = len(planned.filter(pc.invert(pc.is_in(planned, done))))
            return Left(num, lambda shared: graph(scorer, config, done, shared))

        drive(
            run,
            f"score {kind}",
            left([MADE]),  # what was given up is tried again by the next start alone
            left,
            planned=len(planned),
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


def in_a_task(function: Callable[..., Any], config: ScoreConfig) -> Any:
    """`function` as a Ray task that takes what a worker takes."""
    workers = config.workers
    return ray.remote(function).options(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=MAX_RETRIES)


def plain_scorer(config: ScoreConfig, labels: LabelSpace, run: Run) -> Scorer:
    """Scores that need nothing else."""
    made_with = canonical_json({"version": 2, "unwanted": config.unwanted.dump()})
    stage = partial(score_plain.plain_scores, labels=labels, unwanted=config.unwanted, made_by=made_with)
    return Scorer(score_plain.READ, made_with, lambda: stage)


def text_scorer(config: ScoreConfig, labels: LabelSpace, run: Run) -> Scorer:
    """Scores by a CLIP."""
    made_with = canonical_json({"version": 1, "clip": config.clip, "shuffles": config.shuffles})
    make = partial(score_text.make_text, config.clip, labels, config.shuffles, made_with, config.device)
    return Scorer(score_text.READ, made_with, make)


def safety_scorer(config: ScoreConfig, labels: LabelSpace, run: Run) -> Scorer:
    """Scores by a network that names pictures."""
    score_safety.places_of(config.safety)  # a wrong name is told now, not by every process
    made_with = canonical_json({"version": 1, **config.safety.dump()})
    make = partial(score_safety.make_safety, config.safety, made_with, config.device)
    return Scorer(score_safety.READ, made_with, make)


def nearest_scorer(config: ScoreConfig, labels: LabelSpace, run: Run) -> Scorer:
    """Scores by the real pairs; embeds these first."""
    log.info("score nearest: looking at the real pairs")
    read = partial(tables_of, config.real, config.slices)  # with those without masks: generators learn from them
    task = in_a_task(score_nearest.describe_real, config)
    content, copy_ratio = get(task.remote(read, labels, config.embedder, config.device))
    data = [DataDigest.of(folder).digest for folder in config.real]
    facts = {"version": 2, "real": data, "slices": config.slices, "embedder": config.embedder}
    made_with = canonical_json({"copy_ratio": copy_ratio, **begun(str(run.folder), "nearest", facts)})
    held = ray.put(content)
    return Scorer(
        score_nearest.READ,
        made_with,
        lambda: score_nearest.make_nearest(ray.get(held), config.embedder, config.device, made_with),
    )


def judge_scorer(config: ScoreConfig, labels: LabelSpace, run: Run) -> Scorer:
    """Scores by segmenters of real pairs; trains these first."""
    folders, parts = list(config.real), list(config.slices or [":"] * len(config.real))
    held_out = (config.validation, ":")
    if not config.validation:
        parts[0], kept = parted(folders[0], parts[0], HELD_OUT_SHARE)
        held_out = (folders[0], kept)
    first = TrainingSet(train=tuple(folders), slices=tuple(parts), augmentation=config.augmentation)
    common = config.common(first, held_out[0], config.validation_rows, held_out[1])
    task, terms = config.task(labels), config.terms(first)
    judges = judges_of(config.judge_weights, task, terms, "judge_weights")
    if not judges:
        proving = Proving(terms, task, common, {JUDGE: first}, config.seeds, [], Labels(), run, at_once=config.at_once)
        proving.train([JUDGE])
        judges = tuple(proving.weights(JUDGE, seed) for seed in range(config.seeds))
    weights, digests = zip(*judges, strict=True)
    sure = [DataDigest.of(held_out[0]).digest, held_out[1], config.validation_rows]
    facts = {"version": 2, "judge": text_digest(digests), "validation": sure, "size_px": config.size_px}
    known = begun(str(run.folder), "judge", facts)
    if "usual" not in known:
        arguments = (*held_out, config.validation_rows, config.device)
        found = get(in_a_task(usual_losses, config).remote(task, weights, *arguments)).round(4).tolist()
        known["usual"] = {name: None if np.isnan(one) else one for name, one in zip(labels.classes, found, strict=True)}
    log.info("score judge: its usual loss by class: %s", known["usual"])
    usual = np.array([known["usual"][name] for name in labels.classes], np.float64)  # None becomes NaN
    made_with = canonical_json(known)
    stage = partial(score_judge.judge_scores, labels=labels, usual=usual, size_px=config.size_px, made_by=made_with)
    return Scorer(score_judge.READ, made_with, partial(make_judge, stage, task, weights, config.device))


def make_judge(stage: Callable[..., pa.Table], task: SegmenterTask, weights: tuple[str, ...], device: str) -> Stage:
    """The stage with what segmenters see."""
    return partial(stage, sees=seeing(task, weights, device))


def usual_losses(
    task: SegmenterTask, weights: tuple[str, ...], folder: str, part: str, num_rows: int, device: str
) -> np.ndarray:
    """(K + 1,) what a segmenter's loss usually is in held-out real pairs, by class."""
    rows = Feed((folder,), task.columns, task.decode, slices=(part,)).head(num_rows)
    images, masks = rows["image"].numpy(), rows["mask"].numpy()
    sees = seeing(task, weights, device)
    return score_judge.usual_losses(sees, images, masks, task.labels.num_classes + 1, task.labels.ignore_index)


SCORERS: dict[Kind, Callable[[ScoreConfig, LabelSpace, Run], Scorer]] = {
    "plain": plain_scorer, "text": text_scorer, "judge": judge_scorer, "nearest": nearest_scorer,
    "safety": safety_scorer,
}  # fmt: skip
