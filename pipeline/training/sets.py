"""Sets of the proof: what a segmenter trains on, and the training that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, model_validator

from models.segmenters import SegmenterName
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.places import Folder
from pipeline.tables.digest import DataDigest
from pipeline.tables.ids import text_digest
from pipeline.tables.rows import read_columns
from pipeline.tables.shards import some_shards
from pipeline.training.config import TrainingConfig, require_one_each
from pipeline.training.labelling import Hold
from pipeline.training.optimisation import Optimisation
from pipeline.training.order import groups_of
from pipeline.training.tasks.augment import Augmentation
from pipeline.training.tasks.recipes import Style, recipe_of
from pipeline.training.tasks.segmenter import SegmenterTask

PROTOCOL = 2
"""Rises whenever trainings or their judgement change, so that figures before and after never stand in one proof."""
Masks = Literal["own"] | Hold
Varied = Literal["usual", "strong", "copy_paste"]


class TrainingSet(Config):
    """Pairs that a segmenter trains on, and how."""

    train: tuple[Folder, ...] = Field(min_length=1)
    """Folders of runs."""
    slices: tuple[str, ...] = ()
    """Which pairs of each folder are taken, as START:STOP in the order of their ids: "0:512" takes 512 drawn at random,
    "512:" all others. Empty takes all."""
    shares: tuple[float, ...] = ()
    """How many rows of a batch come from each folder, as parts of their sum. Empty takes all folders as one set."""
    masks: tuple[Masks, ...] = ()
    """Whose masks each folder's pictures have: "own", or those that the segmenter of the first set sees in them, "free"
    or "held" to the classes that the captions name. Empty takes their own."""
    balanced: bool = False
    """Rows with rare classes come more often (repeat factor sampling)."""
    augmentation: Varied = "usual"
    """"usual" is the recipe's, "strong" scales, crops and distorts colours as mmsegmentation does, "copy_paste" lays
    objects of other pictures on half of them."""
    after: str = ""
    """Another set, which the first half of the steps trains on; this one gets the other half."""

    @model_validator(mode="before")
    @classmethod
    def _folders_alone(cls, values: object) -> object:
        return {"train": values} if isinstance(values, list | tuple) else values

    @model_validator(mode="after")
    def _one_for_each_folder(self) -> TrainingSet:
        require_one_each(self.train, self.slices, self.shares, self.masks)
        return self

    def own(self, number: int) -> bool:
        """Whether a folder's pictures have their own masks."""
        return not self.masks or self.masks[number] == "own"

    def sizes(self) -> list[int]:
        """Pairs that are taken of each folder.

        Raises:
            ShardError: as `order.groups_of`.
        """
        found = []
        for number, folder in enumerate(self.train):
            groups = groups_of([folder], self.slices[number : number + 1], labelled=self.own(number))
            found.append(sum(len(group.rows) for group in groups))
        return found


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
            ConfigError: strong augmentation of a segmenter whose recipe is that already.
        """
        if chosen.augmentation == "strong" and self.segmenter != "unet_small":
            raise ConfigError(f"augmentation strong: {self.segmenter} is trained so by its own recipe; leave it out")
        strong = Augmentation(crop_px=0) if chosen.augmentation == "strong" else like.augmentation
        pasted = chosen.augmentation == "copy_paste"
        return replace(like, augmentation=strong, copy_paste=pasted, initial=initial)

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
        that finished ones serve again and changed ones are made anew.

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
                "checkpoint_examples": max(1, self.num_examples),
            }
        )
        data = [DataDigest.of(one).digest for one in (*folders, ready.validation)]
        network: list[object] = [self.segmenter, self.width, *([self.size_px] if self.size_px else [])]
        if self.segmenter != "unet_small":
            network += [self.pretrained, self.crop_px]
        if self.multi_scale:
            network.append("multi_scale")
        further = [ready.slices, ready.shares, ready.balanced, chosen.augmentation, initial]
        content = text_digest([PROTOCOL, data, network, further, ready.validation_rows, optimisation.dump()])
        return ready.model_copy(update={"run": f"{common.run}/{name}-{common.seed}-{content[:8]}"})


@dataclass(frozen=True)
class Labels:
    """Labelled pairs that something has learned from.

    Attributes:
        ids: those that are known one by one.
        least: how many there are at least, these among them; None where that is not known.
    """

    ids: frozenset[str] = frozenset()
    least: int | None = 0

    def __or__(self, other: Labels) -> Labels:
        known = None if self.least is None or other.least is None else max(self.least, other.least)
        return Labels(self.ids | other.ids, known)

    def count(self) -> int | None:
        """How many; None where that is not known."""
        return None if self.least is None else max(len(self.ids), self.least)


def is_synthetic(folder: str) -> bool:
    """Whether any of a run's pairs are a generator's."""
    tables = [read_columns(path, ["origin"]) for path in some_shards(folder)]
    return any("origin" in one.column_names and "synthetic" in one["origin"].unique().to_pylist() for one in tables)
