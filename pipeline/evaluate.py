"""Evaluate: how good a segmenter becomes on real pictures when it trained on real pairs, on synthetic ones, on both."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, field_validator, model_validator

from models.labels import LabelSpace
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import Folder, as_given
from pipeline.evaluation.agreement import MAX_JUDGED, agreement, prompt_match
from pipeline.evaluation.results import FILE, Choice, HeldOut, Proof
from pipeline.evaluation.units import units_of
from pipeline.pages.proof_table import markdown
from pipeline.runs.config import checked_name
from pipeline.runs.run import Run
from pipeline.storage.copies import local_copy
from pipeline.storage.files import is_local
from pipeline.storage.publish import write_bytes
from pipeline.tables.conform import object_column
from pipeline.tables.label_space import common_labels
from pipeline.tables.rows import read_shards
from pipeline.training.choosing import choose, choose_augmentation
from pipeline.training.config import require_one_each
from pipeline.training.fit import WEIGHTS_FOLDER
from pipeline.training.order import ids_of
from pipeline.training.overlap import SamePictures, parts_of, tell_same
from pipeline.training.proving import Proving
from pipeline.training.sets import (
    Labels,
    TrainingSet,
    Varied,
    by_folder,
    chosen_on,
    is_synthetic,
    pictures_of,
    refuse_common,
    refuse_learned,
    require_made,
    require_order,
    require_real,
    taught,
)
from pipeline.training.terms import SegmenterKeys

TABLE = "proof.md"


class EvaluateConfig(SegmenterKeys):
    """Trains the same segmenter on several sets of pairs and tests each on real held-out pairs."""

    sets: dict[str, TrainingSet] = Field(min_length=1)
    """Name of each set -> folders of its runs, or more of what it trains on and how. The first is what the others are
    compared with: name it "real"."""
    test: Folder
    """Folder of a run with real held-out pairs."""
    test_rows: int = Field(1024, ge=1)
    """Pairs of it to test on."""
    rare: tuple[str, ...] = ()
    """Classes whose mean IoU has a column of its own, such as the rarest ones."""
    same_pictures: SamePictures = "refuse"
    """What happens where test or validation hold pictures that something learns from, by their content: "refuse", or
    "warn", where sets have some copies that nobody can help."""
    judged: Folder = ""
    """Folder of synthetic pairs whose masks are compared with what the segmenter of the first set sees in the images,
    and with the classes that their prompts name; empty leaves both out."""
    generator_train: tuple[Folder, ...] = ()
    """Runs of labelled pairs that the generator of the synthetic pairs learned from, to be told with their rows."""
    generator_slices: tuple[str, ...] = ()
    """Which pairs of each of them, as in `sets`; empty takes all."""
    generator_labels: int = Field(0, ge=0)
    """How many these are, where the runs are not at hand; pairs of `sets` among them are counted in. 0 says that it is
    not known."""
    generator_pictures: int = Field(0, ge=0)
    """Pictures without labels that it learned from besides; 0 counts those that a teacher labelled in these runs."""
    validation: Folder = ""
    """Folder of a run with real pairs to choose steps and learning rate on; never the test pairs."""
    try_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Lengths that are tried with the first set. The shortest is taken that is as good on `validation` as the best, to
    within 0.005 mIoU."""
    try_learning_rates: tuple[float, ...] = ()
    """Peaks of the learning rate that are tried with each; empty takes `learning_rate`."""
    try_augmentations: tuple[Varied, ...] = ()
    """Ways to vary pictures that are tried with the first set at these steps and this rate; of equal ones, to within
    0.005 mIoU, the one that stands first is taken for all sets that name none."""
    try_seeds: int = Field(1, ge=1)
    """Trainings of each that is tried."""

    @field_validator("sets")
    @classmethod
    def _named_sets(cls, sets: dict[str, TrainingSet]) -> dict[str, TrainingSet]:
        for name, chosen in sets.items():
            checked_name(name)  # the trainings are runs of these names
            above = list(sets)[: list(sets).index(name)]
            if chosen.teacher and chosen.teacher not in above:
                raise ValueError(f"{name}: teacher {chosen.teacher!r} must name a set above this one")
            if chosen.after and (chosen.after not in sets or sets[chosen.after].after or chosen.after == name):
                raise ValueError(f"{name}: after {chosen.after!r} must name another set, which comes after none itself")
        if not all(map(next(iter(sets.values())).own, range(len(next(iter(sets.values())).train)))):
            raise ValueError("the first set has the masks of its pairs alone: it trains the teacher of the others")
        require_order(sets)
        return sets

    @model_validator(mode="after")
    def _chosen_on_validation(self) -> EvaluateConfig:
        tried = bool(self.try_steps or self.try_augmentations)
        if tried != bool(self.validation) or (self.try_learning_rates and not self.try_steps):
            raise ValueError(
                "validation goes with try_steps or try_augmentations, and try_learning_rates needs try_steps: what is "
                "tried is judged on validation pairs"
            )
        if self.try_augmentations and next(iter(self.sets.values())).augmentation:
            raise ValueError("try_augmentations: the first set names its augmentation already; leave one of both out")
        require_one_each(self.generator_train, self.generator_slices, key="generator_train")
        if self.validation and self.validation == self.test:
            raise ValueError("validation is the test set: what is chosen on it would be tested on it too")
        return self

    def check_inputs(self) -> None:
        super().check_inputs()
        folders = [folder for chosen in self.sets.values() for folder in chosen.train]
        if all(map(is_local, (self.test, self.validation, self.judged, *folders, *self.generator_train))):
            self.common_labels()
            for chosen in self.sets.values():
                chosen.sizes()
            refuse_overlap(self)

    def common_labels(self) -> LabelSpace:
        """Of all pairs whose masks are learned from or compared; raises DataError where they differ."""
        folders = [folder for chosen in self.sets.values() for folder in chosen.train]
        return common_labels([one for one in (self.test, self.validation, self.judged, *folders) if one])


def evaluate(config: EvaluateConfig) -> Proof:
    """Trains what is missing and writes `<run>/proof.json`, and its table as `proof.md`; returns its content.

    Raises:
        ConfigError, DataError, ShardError: each says what is wrong, where, and how to correct it.
        Stopped: SIGINT or SIGTERM; what is trained serves again.
    """
    with Run.open(config, "evaluate", frozenset(EvaluateConfig.model_fields), on_store=True) as run:
        unit, units = units_of(config.test, config.test_rows)
        proving = begin(config, run, units)
        same = refuse_overlap(config)
        config.check_pretrained(proving.task.labels)
        choices: list[Choice] = []
        warnings: list[str] = []
        if config.try_steps:
            tried = (config.try_steps, config.try_learning_rates, config.try_seeds)
            choices, told = choose(proving, config.validation, *tried)
            warnings += [told] * bool(told)
        if config.try_augmentations:
            choices += choose_augmentation(proving, config.validation, config.try_augmentations, config.try_seeds)
        log.info(
            "evaluate: %d sets with %d seeds each, %d steps of every training",
            len(config.sets),
            config.seeds,
            proving.terms.optimisation().num_steps,
        )
        proving.train(list(config.sets))
        first, *others = [proving.trained(name) for name in config.sets]
        for row in others:
            if row.labels is None:
                warnings.append(f"“{row.name}”: it is not known how many labels its generator learned from")
            elif row.labels > (first.labels or 0):
                warnings.append(
                    f"“{row.name}” stands on {row.labels:,} labels, “{first.name}” on {first.labels:,}: not equal"
                )
        generated = [name for name, chosen in config.sets.items() if any(map(is_synthetic, chosen.train))]
        if len(generated) > 1:
            warnings.append(
                f"{len(generated)} rows hold generated pairs; the best of them was not chosen on validation pairs, so "
                "that its figure is too good by what the best of so many has by chance"
            )
        for text in warnings:
            log.warning("%s", text)
        warnings += same  # which are told already
        proof = Proof(
            test=HeldOut(folder=as_given(config.test), pairs=len(units), units=len(set(units)), unit=unit),
            seeds=list(range(config.seeds)),
            classes=list(proving.task.labels.classes),
            sets=[first, *(proving.compared(row, first) for row in others)],
            rare=list(config.rare),
            choices=choices,
            warnings=warnings,
        )
        if config.judged:
            proof = proof.model_copy(update=judged(config.judged, proving))
        for name, text in ((FILE, proof.model_dump_json(indent=1)), (TABLE, f"{markdown(proof)}\n")):
            write_bytes(f"{run.folder}/{name}", text.encode())
            run.tracker.text(name, text)
        return proof


def begin(config: EvaluateConfig, run: Run, units: list[str]) -> Proving:
    """The trainings that a config asks for; none is made yet."""
    labels = config.common_labels()
    if unknown := set(config.rare) - set(labels.classes):
        raise ConfigError(f"rare: {', '.join(sorted(unknown))} is no class; there are {', '.join(labels.classes)}")
    first = next(iter(config.sets.values()))
    generator = Labels(least=config.generator_labels or (0 if config.generator_train else None))
    parts = config.generator_slices or [":"] * len(config.generator_train)
    pictures = 0
    for folder, part in zip(config.generator_train, parts, strict=True):
        generator = generator | Labels.of(folder, part)
        pictures += taught(folder, part)
    common = config.common(first, config.test, config.test_rows)
    return Proving(
        config.terms(first),
        config.task(labels),
        common,
        config.sets,
        config.seeds,
        units,
        generator,
        run,
        at_once=config.at_once,
        generator_pictures=config.generator_pictures or pictures,
    )


def refuse_overlap(config: EvaluateConfig) -> list[str]:
    """Refuses pairs that something is tested or chosen on, and trained on; returns what it warned of instead.

    Raises:
        ConfigError: says which runs share how many pairs.
    """
    for key, folder in (("test", config.test), ("validation", config.validation)):
        require_real(key, folder)
    held_out = {key: folder for key, folder in (("test", config.test), ("validation", config.validation)) if folder}
    held_ids = {key: set(ids_of(folder)) for key, folder in held_out.items()}
    for name, chosen in config.sets.items():
        require_made(f"sets.{name}.relabel", chosen)
    learners = {f"sets.{name}": parts_of(one.train, one.slices) for name, one in config.sets.items()}
    learners |= by_folder("generator_train", parts_of(config.generator_train, config.generator_slices))
    refuse_learned(held_ids, {key: pictures_of(folder) for key, folder in held_out.items()}, learners)
    for key, parts in learners.items():
        chosen_on_them = set().union(*(chosen_on(folder) for folder, _ in parts))
        refuse_common({"test": held_ids["test"]}, {f"what labels in {key} were chosen on": chosen_on_them})
    both = {key: [(folder, ":")] for key, folder in held_out.items()}
    same = tell_same(both, learners, config.same_pictures)
    if config.validation:
        same += tell_same({"test": both["test"]}, {"validation": both["validation"]}, config.same_pictures)
        refuse_common({"test": held_ids["test"]}, {"validation": held_ids["validation"]})
    return same


def judged(folder: str, proving: Proving) -> dict[str, object]:
    """What the first set's segmenter, and the prompts, say of synthetic pairs; values of `Proof`."""
    rows = read_shards([folder], ["pair_id", "prompt", "image", "mask", "class_ids"])
    task, name = proving.task, proving.first
    net = task.load(local_copy(f"{proving.training(name, 0).folder}/{WEIGHTS_FOLDER}"))
    real = read_shards([proving.common.validation], ["pair_id", "image"]).sort_by("pair_id").slice(0, MAX_JUDGED)
    found = agreement(
        rows,
        task.labels,
        decode=task.decode,
        predict=lambda images: task.predict(net, torch.from_numpy(images)),
        judge=name,
        on=as_given(folder),
        real=task.decode({"image": object_column(real["image"].to_pylist())})["image"],
    )
    match = prompt_match(rows, task.labels)
    log.info("masks agree with the segmenter of %s: mIoU %.4f", name, found.miou)
    log.info("images are %.2f as sharp as those of the test", found.sharpness)
    log.info("masks that hold exactly the classes of their prompts: %.1f %%", 100 * match)
    return {"agreement": found, "prompt_match": {as_given(folder): match}}
