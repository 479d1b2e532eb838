"""The one schema of proof.json, for who writes it and who reads it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

FILE = "proof.json"


class Difference(BaseModel):
    """How far a set is from the first one: of each seed, and with other test units."""

    miou: list[float]
    """By seed: of this set's training minus of the first set's."""
    interval: tuple[float, float] | None = None
    """95 % of the differences lie between, when the test units are drawn anew, the same ones for both."""
    unit_error: float | None = None
    """Standard deviation of these differences."""


class TrainedSet(BaseModel):
    """One row of the proof: a training set, and what its segmenters reach, per seed."""

    name: str
    folders: list[str] = []
    trained_on: dict[str, Any] = {}
    """The set as the config has it."""
    trainings: list[str] = []
    """Folders of the trainings, with their weights, by seed."""
    pairs: int
    steps: int
    miou: list[float] = Field(min_length=1)
    miou_multi_scale: list[float] = []
    """Of predictions at several scales, mirrored and not; empty where that was not asked for."""
    iou: dict[str, list[float | None]]
    """By class, over seeds; None where no known pixel of the test has it."""
    labels: int | None = None
    """Pairs with labels that anything behind the row has learned from, its generator and its teacher too; None where
    that is not known."""
    unlabelled: int = 0
    """Pictures without labels behind the row: those whose masks a teacher made, and those that its generator saw."""
    pixel_accuracy: list[float] = []
    boundary_iou: list[float] = []
    seconds: list[float] = []
    """Of the segmenters behind each seed, its teacher's and its first half too; a generator's trainings, labelling and
    generating not."""
    interval: tuple[float, float] | None = None
    """95 % of the means over seeds lie between, when the test units are drawn anew."""
    difference: Difference | None = None


class Choice(BaseModel):
    """A length, a learning rate and a way to vary pictures that were tried with the first set; its mIoU on validation
    pairs, by seed."""

    steps: int
    learning_rate: float
    augmentation: str = "usual"
    miou: list[float] = Field(min_length=1)

    @property
    def mean(self) -> float:
        """Over seeds."""
        return sum(self.miou) / len(self.miou)


class HeldOut(BaseModel):
    """The held-out pairs that segmenters are tested on."""

    folder: str
    pairs: int
    units: int = 0
    """What is independent of each other among them; 0 where that was not counted."""
    unit: str = ""
    """What these are called: photographs or pictures."""


class Agreement(BaseModel):
    """How well masks agree with what a segmenter, trained on the set `judge`, sees in the images of `on`."""

    judge: str
    on: str
    miou: float
    pixel_accuracy: float
    class_accuracy: float | None = None
    """Of the pixels that both call an object: how many they give the same class."""
    sharpness: float | None = None
    """Of the images: the mean squared Laplacian of their grey values, as a share of that of the test images."""


class Proof(BaseModel):
    """What `jobs.evaluate` found."""

    test: HeldOut
    seeds: list[int]
    classes: list[str]
    sets: list[TrainedSet] = Field(min_length=1)
    """The first is what the others are compared with."""
    rare: list[str] = []
    """Classes whose mean IoU is told apart."""
    choices: list[Choice] = []
    """What was tried on validation pairs to choose steps, rate and augmentation; empty where all were given."""
    warnings: list[str] = []
    """What speaks against a comparison."""
    agreement: Agreement | None = None
    prompt_match: dict[str, float] = {}
    """Folder of generated pairs -> share of its masks that hold exactly the classes of their prompts."""
