"""The trainings of a proof, and a row for each set."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from models.weights import ENCODERS, JOINT
from models.weights import digest as bundle_digest
from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.base.places import as_given
from pipeline.evaluation.metrics import class_ious, mean_and_spread, mean_iou
from pipeline.evaluation.results import Difference, TrainedSet
from pipeline.evaluation.spread import by_unit, drawn_miou, from_bytes, interval
from pipeline.runs.run import Run
from pipeline.storage.copies import local_copy
from pipeline.storage.files import read_bytes
from pipeline.tables.digest import DataDigest
from pipeline.tables.ids import text_digest
from pipeline.tables.rows import Which, read_columns
from pipeline.tables.selection import view_of
from pipeline.tables.shards import some_shards
from pipeline.training.config import SAFE_TO_CHANGE, TrainingConfig
from pipeline.training.fit import WEIGHTS_FOLDER, fit
from pipeline.training.labelling import Hold, Labelling, label, left_unnamed
from pipeline.training.sets import Labels, TrainingSet, is_synthetic, multiplied, taught, taught_parts
from pipeline.training.side_by_side import side_by_side
from pipeline.training.tasks.segmenter import CELLS, SegmenterTask
from pipeline.training.teacher import Teacher, weights_digest
from pipeline.training.terms import Terms
from pipeline.training.worker import SCORES

MOST_KEPT = 4 * 2**30
"""Bytes of decoded pairs that each worker keeps in memory; of larger sets, only those about to come."""


@dataclass
class Proving:
    """The trainings of a proof; what is trained already serves again.

    Attributes:
        terms: what all rows have in common.
        task: of a set without anything of its own.
        common: of all trainings; `run` is that of the proof, `validation` the test pairs.
        sets: by name, the first is what the others are compared with.
        seeds: trainings per set.
        units: (N,) what each test picture belongs to, such as its photograph.
        generator: labelled pairs that the generator of synthetic pairs learned from.
        run: of the proof, open.
        teacher: what labels where no set is named as the teacher; None is the first set's segmenter.
        at_once: trainings that run side by side.
        generator_pictures: pictures without labels that the generator learned from.
    """

    terms: Terms
    task: SegmenterTask
    common: TrainingConfig
    sets: Mapping[str, TrainingSet]
    seeds: int
    units: Sequence[str]
    generator: Labels
    run: Run
    teacher: Teacher | None = None
    at_once: int = 1
    generator_pictures: int = 0
    _scores: dict[str, dict[str, float]] = field(default_factory=dict)
    _trainings: dict[tuple[str, int], TrainingConfig] = field(default_factory=dict)
    _draws: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """Name of the first set."""
        return next(iter(self.sets))

    def train(self, names: Sequence[str]) -> None:
        """Trains all that is missing of some sets, `at_once` side by side: first what teaches others."""
        waiting = list(names)
        while waiting:
            ready = [name for name in waiting if not self._teachers(name) & set(waiting)]
            rows = [(name, seed) for name in ready for seed in range(self.seeds)]
            halves = [(name, seed) for name, seed in rows if self.sets[name].after]
            self.fit_all([(self._begun(*row), self.sets[self.sets[row[0]].after], "") for row in halves])
            self.fit_all([(self.training(*row), self.sets[row[0]], self._initial(*row)) for row in rows])
            waiting = [name for name in waiting if name not in ready]

    def _teachers(self, name: str) -> set[str]:
        """The sets whose segmenters label something of a set."""
        taught = taught_parts(name, self.sets)
        return {one.teacher or self.first for one in taught if one.teacher or not self.teacher}

    def fit_all(self, trainings: Sequence[tuple[TrainingConfig, TrainingSet, str]]) -> list[dict[str, float]]:
        """The scores of trainings, made side by side where they are missing.

        Args:
            trainings: each with the set it learns from, and the folder of weights that it begins with, "" for none.
        """
        if self.at_once > 1:
            side_by_side({str(one[0].folder): partial(self._fit, *one) for one in trainings}, self.at_once)
        return [self._fit(*one) for one in trainings]

    def training(self, name: str, seed: int) -> TrainingConfig:
        """The training of a set; trains and labels first what it builds on."""
        if (name, seed) not in self._trainings:
            self._trainings[name, seed] = self._training(name, seed)
        return self._trainings[name, seed]

    def _training(self, name: str, seed: int) -> TrainingConfig:
        chosen = self.sets[name]
        common = self.common.model_copy(update={"seed": seed})
        if not chosen.after:
            return self.terms.training(common, chosen, name, *self._with_labels(chosen, seed))
        rest = self.terms.of_steps(-(-self.terms.optimisation().num_steps // 2))
        begun = self._begun(name, seed)
        self._fit(begun, self.sets[chosen.after])
        return rest.training(common, chosen, name, *self._with_labels(chosen, seed), initial=begun.run)

    def _begun(self, name: str, seed: int) -> TrainingConfig:
        """The first half of the steps of a set that comes after another."""
        before = self.sets[self.sets[name].after]
        half = self.terms.of_steps(self.terms.optimisation().num_steps // 2)
        common = self.common.model_copy(update={"seed": seed})
        return half.training(common, before, f"{name}-first", *self._with_labels(before, seed))

    def _with_labels(self, chosen: TrainingSet, seed: int) -> tuple[list[str], list[str]]:
        """Folders and slices of a set; where its masks are a teacher's, the folder that holds them."""
        folders, slices = list(chosen.train), list(chosen.slices)
        for number in range(len(folders)):
            if (hold := chosen.masks[number] if chosen.masks else "own") != "own":
                part = slices[number] if slices else ":"
                folders[number] = self.labels_by(chosen, folders[number], part, hold, chosen.pictures, seed)
                if slices:
                    slices[number] = ":"
        return folders, slices

    def labels_by(self, chosen: TrainingSet, source: str, part: str, hold: Hold, which: Which, seed: int) -> str:
        """The folder of the pictures of a run with masks as a set has them of its teacher; labels them first.

        Args:
            chosen: the set, by whose teacher and threshold.
            source, part: the run, and which of its pictures.
            hold: which classes may be answered.
            which: all of these pictures, or those alone that have no mask.
            seed: of the teacher's training.
        """
        weights, digest = self.weights(chosen.teacher, seed)
        unnamed = self.unnamed() if hold == "soft" else 0.0
        further: list[object] = [one for one in (chosen.ignore_below, unnamed) if one]
        further += [which] * (which != "all") + ["agree"] * chosen.agree
        content = text_digest([DataDigest.of(source).digest, part, digest, *further])
        config = Labelling(
            run=f"{self.common.run}/labels-{hold}-{seed}-{content[:8]}",
            runs=self.common.runs,
            experiment=self.common.experiment,
            tracking_uri=self.common.tracking_uri,
            pairs=source,
            slice=part,
            pictures=which,
            teacher=weights,
            hold=hold,
            unnamed=unnamed,
            ignore_below=chosen.ignore_below,
            agree=chosen.agree,
            workers=self.common.workers,
        )
        label(config, self.task_of(chosen.teacher), digest)
        return str(config.folder)

    def weights(self, name: str, seed: int, chosen: TrainingSet | None = None) -> tuple[str, str]:
        """The folder of the weights of a teacher, and their digest; trains it first.

        Args:
            name: of the set whose segmenter it is; "" is `teacher`, or the first set's.
            seed: of its training.
            chosen: what a `teacher` learns from; None is the first set.
        """
        if name or not self.teacher:
            training = self.training(name or self.first, seed)
            self._fit(training, self.sets[name or self.first], self._initial(name or self.first, seed))
        elif self.teacher.task.segmenter == "joint":
            bundle = self.teacher.task.pretrained
            return bundle, bundle_digest(local_copy(bundle), ENCODERS + JOINT)
        elif self.teacher.weights:
            return self.teacher.weights, weights_digest(self.teacher.weights)
        else:
            chosen = chosen or self.sets[self.first]
            common = self.common.model_copy(update={"seed": seed})
            training = self.teacher.terms.training(common, chosen, "teacher", chosen.train, chosen.slices)
            self._fit(training, chosen, task=self.teacher.task)
        folder = f"{training.folder}/{WEIGHTS_FOLDER}"
        return folder, weights_digest(folder)

    def task_of(self, name: str) -> SegmenterTask:
        """Of the teacher that a set names."""
        return self.teacher.task if self.teacher and not name else self.task

    def unnamed(self) -> float:
        """How often the captions of the first set leave out a class; of its first folder, which stands for all."""
        first = self.sets[self.first]
        return left_unnamed(first.train[0], first.slices[0] if first.slices else ":", self.task.labels)

    def _fit(
        self, training: TrainingConfig, chosen: TrainingSet, initial: str = "", task: SegmenterTask | None = None
    ) -> dict[str, float]:
        if training.run in self._scores:
            return self._scores[training.run]
        task = task or self.terms.task(self.task, chosen, initial)
        training = training.model_copy(update={"cache": self._bytes_of(chosen) <= MOST_KEPT})
        with Run.open(training, "segmenter", SAFE_TO_CHANGE, on_store=True) as run:
            self._scores[training.run] = fit(task, training, run)
        return self._scores[training.run]

    def trained(self, name: str) -> TrainedSet:
        """The row of one set: trains what is missing of its segmenters.

        Raises:
            DataError: no pixel of the held-out masks has a known class.
        """
        chosen = self.sets[name]
        self.train([name])
        trainings = [self.training(name, seed) for seed in range(self.seeds)]
        scores = [self._fit(one, chosen, self._initial(name, seed)) for seed, one in enumerate(trainings)]
        confusions = [self._confusions(one) for one in trainings]
        totals = [one.sum(0) for one in confusions]
        miou = [mean_iou(one) for one in totals]
        require_scored(miou, self.common.validation, "test")
        self._draws[name] = [drawn_miou(one) for one in confusions]
        ious = np.array([class_ious(one) for one in totals])
        mean, spread = mean_and_spread(miou)
        pairs = sum(chosen.sizes()) + (sum(self.sets[chosen.after].sizes()) if chosen.after else 0)
        over = f" +- {spread:.4f}" if len(miou) > 1 else ""
        log.info("segmenter trained on %s (%d pairs): mIoU %.4f%s", name, pairs, mean, over)
        self.run.tracker.metrics({f"miou/{name}": mean, f"miou_spread/{name}": spread})
        labels = self.labels(name)
        return TrainedSet(
            name=name,
            folders=list(map(as_given, chosen.train)),
            trained_on=chosen.dump(),
            trainings=[str(one.folder) for one in trainings],
            pairs=pairs,
            labels=labels.count(),
            unlabelled=self.unlabelled(name),
            steps=self.terms.optimisation().num_steps,
            miou=miou,
            miou_multi_scale=[score["miou_multi_scale"] for score in scores] if self.terms.multi_scale else [],
            iou={
                key: [None if math.isnan(one) else float(one) for one in ious[:, number]]
                for number, key in enumerate(self.task.labels.classes)
            },
            pixel_accuracy=[score["pixel_accuracy"] for score in scores],
            boundary_iou=[score["boundary_iou"] for score in scores],
            seconds=[self._seconds(name, seed, score) for seed, score in enumerate(scores)],
            interval=interval(np.mean(self._draws[name], 0)),
        )

    def _seconds(self, name: str, seed: int, score: Mapping[str, float]) -> float:
        """Of all trainings behind a row: of its first half and of its teachers too."""
        chosen, total = self.sets[name], score["training_s"]
        if chosen.after:
            total += _training_s(str(self._begun(name, seed).folder))
        taught = taught_parts(name, self.sets)
        for teacher in self._teachers(name):
            own = {"training_s": _training_s(str(self.training(teacher, seed).folder))}
            total += self._seconds(teacher, seed, own)
        if self.teacher and self.teacher.is_trained and not all(one.teacher for one in taught):
            total += _training_s(self.weights("", seed)[0].removesuffix(f"/{WEIGHTS_FOLDER}"))
        return total

    def _bytes_of(self, chosen: TrainingSet) -> int:
        """Of a set's pairs when they are decoded."""
        height = width = self.terms.size_px
        if not height:
            rows = (
                read_columns(some_shards(view_of(chosen.train[0]).folder)[0], ["height", "width"])
                .slice(0, 1)
                .to_pylist()
            )
            height, width = rows[0]["height"], rows[0]["width"]
        return sum(chosen.sizes()) * height * width * (3 + np.dtype(self.task.labels.dtype).itemsize)

    def _initial(self, name: str, seed: int) -> str:
        """Folder of the weights that a training goes on from."""
        after = self.sets[name].after
        return f"{self._begun(name, seed).folder}/{WEIGHTS_FOLDER}" if after else ""

    def compared(self, row: TrainedSet, first: TrainedSet) -> TrainedSet:
        """The row with its difference to the first one: seed by seed, and with other test units, the same for both."""
        miou = [own - other for own, other in zip(row.miou, first.miou, strict=True)]
        moved = np.mean(self._draws[row.name], 0) - np.mean(self._draws[first.name], 0)
        found = Difference(miou=miou, interval=interval(moved), unit_error=float(np.nanstd(moved)))
        return row.model_copy(update={"difference": found})

    def _confusions(self, training: TrainingConfig) -> np.ndarray:
        """Of each test unit; figures are taken from these, so that rows of all ages count alike."""
        found = from_bytes(read_bytes(f"{training.folder}/{CELLS}"))
        return by_unit(found, self.units, self.task.labels.num_classes + 1)

    def unlabelled(self, name: str) -> int:
        """Pictures without labels behind a set: of it, of what it comes after, of their teachers, of the generator."""
        chosen = self.sets[name]
        parts = [chosen, *([self.sets[chosen.after]] if chosen.after else [])]
        own = sum(
            taught(folder, (part.slices or (":",) * len(part.train))[number])
            if part.own(number) else 0 if is_synthetic(folder) else part.sizes()[number]
            for part in parts for number, folder in enumerate(part.train)
        )  # fmt: skip
        made = any(is_synthetic(folder) for part in parts for folder in part.train)
        teachers = [self.unlabelled(one) for one in self._teachers(name)]
        return max(own, self.generator_pictures if made else 0, *teachers, 0)

    def labels(self, name: str) -> Labels:
        """What anything behind a set has learned masks from: the pairs themselves, their teacher, their generator."""
        chosen = self.sets[name]
        found = self.labels(chosen.after) if chosen.after else Labels()
        for number, folder in enumerate(chosen.train):
            if not chosen.own(number):
                given = self.teacher and not chosen.teacher
                found = found | (Labels(least=None) if given else self.labels(chosen.teacher or self.first))
                if is_synthetic(folder):
                    found = found | self.generator
            elif is_synthetic(folder):
                found = found | self.generator | multiplied(folder)
            else:
                found = found | Labels.of(folder, chosen.slices[number] if chosen.slices else ":")
        return found


def require_scored(miou: Sequence[float], folder: str, key: str) -> None:
    """Raises DataError where the masks of the run `folder`, which segmenters are judged on, say nothing of them; `key`
    is that of the config."""
    if any(map(math.isnan, miou)):
        raise DataError(
            f"{as_given(folder)}: no pixel of the held-out masks has a known class, so nothing can be scored; give the "
            f"folder of pairs with annotated masks as `{key}`"
        )


def _training_s(folder: str) -> float:
    """Of a training that has ended."""
    return float(json.loads(read_bytes(f"{folder}/{SCORES}"))["training_s"])
