"""Terms: what the trainings of segmenters that are compared have in common, and the keys that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field, model_validator

from models.labels import LabelSpace
from models.pretrained import files_digest, identity
from models.segmenters import JOINT, SegmenterName
from models.weights import ENCODERS, WeightsError
from models.weights import JOINT as JOINT_PARTS
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import NameOrPlace, as_given
from pipeline.runs.config import RunConfig
from pipeline.storage.copies import local_copy
from pipeline.storage.files import is_file, names_in
from pipeline.tables.digest import DataDigest
from pipeline.tables.ids import text_digest
from pipeline.training.config import TrainingConfig
from pipeline.training.optimisation import Optimisation
from pipeline.training.sets import TrainingSet
from pipeline.training.tasks.augment import Augmentation
from pipeline.training.tasks.recipes import Style, recipe_of
from pipeline.training.tasks.relabelling import Relabelling
from pipeline.training.tasks.segmenter import SegmenterTask
from pipeline.training.worker import SCORES

PROTOCOL = 2
"""Rises whenever trainings or their judgement change, so that figures before and after never stand in one proof."""
LEAST_KEPT = 20_000
"""Examples between the checkpoints of a training, at least."""

PASTED = "copy_paste of any row"
"""What "copy_paste" means; it had been of the next row, which is never of the same folder where two come in turns."""


@dataclass(frozen=True)
class Terms:
    """What the rows of a proof have in common.

    Attributes:
        segmenter, width, pretrained, crop_px, style: of the network and of its published recipe.
        size_px: side at which pictures are taken; 0 takes them as they are.
        batch_size, learning_rate: 0 takes the published ones.
        multi_scale: judge also at several scales.
        num_examples: of every row, over all steps.
    """

    segmenter: SegmenterName
    width: int
    pretrained: str
    crop_px: int
    style: Style
    size_px: int
    batch_size: int
    learning_rate: float
    multi_scale: bool
    num_examples: int = 0

    def optimisation(self) -> Optimisation:
        """The published recipe, so long."""
        recipe = recipe_of(self.segmenter, style=self.style)
        return recipe.optimisation(self.num_examples, self.batch_size, self.learning_rate)

    def of_steps(self, steps: int) -> Terms:
        """The same for so many steps."""
        return replace(self, num_examples=steps * self.optimisation().batch_size)

    def task(self, like: SegmenterTask, chosen: TrainingSet, initial: str = "") -> SegmenterTask:
        """The task of one set.

        Raises:
            ConfigError: strong or mild augmentation of a segmenter whose recipe is that already.
        """
        scales = {"strong": (0.5, 2.0), "mild": (0.8, 1.25)}.get(chosen.augmentation)
        if scales and self.segmenter != "unet_small":
            raise ConfigError(
                f"augmentation {chosen.augmentation}: {self.segmenter} is varied by its own recipe; leave it out"
            )
        strong = like.augmentation
        if scales:
            strong = Augmentation(crop_px=0, least_scale=scales[0], greatest_scale=scales[1])
        pasted = chosen.augmentation == "copy_paste"
        again = None
        if chosen.relabel:
            own_steps = self.optimisation().num_steps // 4
            again = Relabelling(chosen.relabel == "held", own_steps, like.labels.ignore_index, like.first)
        return replace(like, augmentation=strong, copy_paste=pasted, initial=initial, relabelling=again)

    def training(
        self,
        common: TrainingConfig,
        chosen: TrainingSet,
        name: str,
        folders: Sequence[str],
        slices: Sequence[str],
        initial: str = "",
    ) -> TrainingConfig:
        """The training of one set with one seed. Its run is named by all that it depends on, the shards among them, so
        that finished ones serve again, also where the row has another name now, and changed ones are made anew. Names
        of earlier releases hold the text of `pretrained`, not what lay there; finished ones serve on, with a warning.

        Args:
            common: of all trainings; `run` is that of the proof.
            chosen: the set.
            name: of the set.
            folders, slices: of the set, where labels of a teacher have a folder of their own.
            initial: name of the training that it goes on from, "" where it begins anew.
        """
        optimisation = self.optimisation()
        ready = common.model_copy(
            update={
                "train": tuple(folders),
                "slices": tuple(slices),
                "shares": chosen.shares,
                "balanced": chosen.balanced,
                "optimisation": optimisation,
                # A long one loses a twentieth where it is cut; a short one spends no time on checkpoints.
                "checkpoint_examples": max(LEAST_KEPT, self.num_examples // 20),
            }
        )
        data = [DataDigest.of(one).digest for one in (*folders, ready.validation)]
        varied = PASTED if chosen.augmentation == "copy_paste" else chosen.augmentation or "usual"
        further = [ready.slices, ready.shares, ready.balanced, varied, initial]
        further += [f"relabel {chosen.relabel}"] * bool(chosen.relabel)
        rows = [ready.validation_rows, *([ready.validation_slice] if ready.validation_slice else [])]

        def ending(begun_with: str) -> str:
            network: list[object] = [self.segmenter, self.width, *([self.size_px] if self.size_px else [])]
            if self.segmenter != "unet_small":
                network += [begun_with, self.crop_px]
            if self.multi_scale:
                network.append("multi_scale")
            content = text_digest([PROTOCOL, data, network, further, *rows, optimisation.dump()])
            return f"-{common.seed}-{content[:8]}"

        now, earlier = ending(self._begun_with()), ending(self.pretrained)
        found = _finished(common.folder, now)
        if not found and (found := _finished(common.folder, earlier)) and earlier != now:
            log.warning(
                "%s was trained by an earlier release, which did not note what %s held; it serves as trained from "
                "these weights. If they have changed since, remove that folder",
                f"{common.folder}/{found}", as_given(self.pretrained),
            )  # fmt: skip
        return ready.model_copy(update={"run": f"{common.run}/{found or name + now}"})

    def _begun_with(self) -> str:
        """What tells `pretrained` from other weights at the same place; "" where everything is drawn at random."""
        if self.segmenter in JOINT:
            bundle = local_copy(self.pretrained)
            return files_digest(file for part in (*ENCODERS, *JOINT_PARTS) for file in _files(bundle / part))
        try:
            return identity(self.pretrained) if self.pretrained else ""
        except WeightsError as error:
            raise ConfigError(f"pretrained of {self.segmenter}: {error}") from error


def _files(part: Path) -> list[Path]:
    """A file, or all files below a folder; none where it is missing, which whoever reads it tells."""
    return sorted(one for one in (part, *part.rglob("*")) if one.is_file())


def _finished(folder: Path, ending: str) -> str:
    """Name of a finished training of a proof that depends on just the same, under whatever row's name; "" for none."""
    names = [name for name in names_in(str(folder)) if name.endswith(ending)]
    return next((name for name in names if is_file(f"{folder}/{name}/{SCORES}")), "")


class SegmenterKeys(RunConfig):
    """What every job that compares segmenters can be told of them."""

    seeds: int = Field(1, ge=1)
    """Trainings per set."""
    epochs: float = Field(24, gt=0)
    """Times that a training on the first set sees each of its pairs; those on the other sets take as many steps, since
    rows of different steps cannot be compared."""
    steps: int = Field(0, ge=0)
    """Optimiser steps of every training instead; 0 goes by `epochs`."""
    segmenter: SegmenterName = "unet_small"
    """The network."""
    width: int = Field(24, ge=4)
    """Channels of its stem."""
    size_px: int = Field(0, ge=0)
    """Side at which the middle of every picture is taken; 0 takes them as they are, all of one size."""
    pretrained: NameOrPlace = ""
    """Weights that segmenters other than unet_small begin with: a backbone or a whole network, as a file, a folder or a
    name on the Hugging Face hub; drawn at random without it."""
    crop_px: int = Field(512, ge=32)
    """Side of the crops that segmenters other than unet_small learn from, of pictures at half to twice this size."""
    recipe: Style = "published"
    """Whose recipe: "published" is that of the segmenter's authors or of mmsegmentation, "dataset_diffusion" another of
    deeplabv3."""
    multi_scale: bool = False
    """Test also at several scales, mirrored and not; the predictions are averaged."""
    batch_size: int = Field(0, ge=0)
    """Pairs per optimiser step; 0 takes the recipe's, 32 for unet_small."""
    learning_rate: float = Field(0.0, ge=0)
    """Peak of the learning rate; 0 takes the recipe's, 0.005 for unet_small."""
    workers: Workers = Workers()
    """Processes of each training."""
    at_once: int = Field(1, ge=1)
    """Trainings that run side by side, each with `workers` of its own."""

    @model_validator(mode="after")
    def _segmenter_has_it(self) -> SegmenterKeys:
        recipe_of(self.segmenter, style=self.recipe)
        if self.segmenter in JOINT and not self.pretrained:
            raise ValueError(f"segmenter {self.segmenter} needs the folder of a bundle: give it as `pretrained`")
        if self.segmenter == "joint":
            raise ValueError("segmenter joint is trained by train_joint alone; it may be a teacher of jobs.label")
        if self.pretrained and self.segmenter == "unet_small":
            raise ValueError("segmenter unet_small has no pre-trained weights: leave `pretrained` out, or take another")
        return self

    def check_pretrained(self, labels: LabelSpace) -> None:
        """Looks at `pretrained` before anything is trained; bundles are looked at by who reads them.

        Raises:
            ConfigError: weights that cannot be had, or do not fit the segmenter; lists what does not.
        """
        if self.pretrained and self.segmenter not in JOINT:
            try:
                self.task(labels).build()
            except WeightsError as error:
                raise ConfigError(f"pretrained of {self.segmenter}: {error}") from error

    def terms(self, first: TrainingSet) -> Terms:
        """What all rows have in common; the length by `steps`, or by `epochs` of the first set."""
        terms = Terms(
            self.segmenter, self.width, self.pretrained, self.crop_px, self.recipe, self.size_px, self.batch_size,
            self.learning_rate, self.multi_scale,
        )  # fmt: skip
        if self.steps:
            return terms.of_steps(self.steps)
        return replace(terms, num_examples=round(sum(first.sizes()) * self.epochs))

    def task(self, labels: LabelSpace) -> SegmenterTask:
        """The task of a set without anything of its own."""
        return SegmenterTask(
            labels,
            self.segmenter,
            self.width,
            self.size_px,
            pretrained=self.pretrained,
            augmentation=recipe_of(self.segmenter, crop_px=self.crop_px).augmentation,
            multi_scale=self.multi_scale,
        )

    def common(self, first: TrainingSet, validation: str, rows: int, part: str = "") -> TrainingConfig:
        """Of all trainings, judged on so many `rows` of a slice, `part`, of the run `validation`."""
        return TrainingConfig(
            run=self.run,
            runs=self.runs,
            experiment=self.experiment,
            tracking_uri=self.tracking_uri,
            train=first.train,
            validation=validation,
            validation_rows=rows,
            validation_slice=part,
            workers=self.workers,
            optimisation=self.terms(first).optimisation(),
        )
