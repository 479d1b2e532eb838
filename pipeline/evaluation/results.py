"""The one schema of proof.json, for who writes it and who reads it."""

from __future__ import annotations

from pydantic import BaseModel, Field

FILE = "proof.json"


class TrainedSet(BaseModel):
    """One row of the proof: a training set, and what its segmenters reach, per seed."""

    name: str
    folders: list[str] = []
    pairs: int
    steps: int
    miou: list[float] = Field(min_length=1)
    miou_multi_scale: list[float] = []
    """Of predictions at several scales, mirrored and not; empty where that was not asked for."""
    iou: dict[str, list[float | None]]
    """By class, over seeds; None where the class is neither in the test masks nor predicted."""


class HeldOut(BaseModel):
    """The held-out pairs that segmenters are tested on."""

    folder: str
    pairs: int


class Agreement(BaseModel):
    """How well masks agree with what a segmenter, trained on the set `judge`, sees in the images of `on`."""

    judge: str
    on: str
    miou: float
    pixel_accuracy: float


class Proof(BaseModel):
    """What `jobs.evaluate` found."""

    test: HeldOut
    seeds: list[int]
    classes: list[str]
    sets: list[TrainedSet] = Field(min_length=1)
    """The first is what the others are compared with."""
    agreement: Agreement | None = None
    prompt_match: dict[str, float] = {}
    """Folder of generated pairs -> share of its masks that hold exactly the classes of their prompts."""
