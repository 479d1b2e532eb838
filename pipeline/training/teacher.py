"""The teacher of a job that labels pictures, where it is another than the segmenter that is trained all the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from models.labels import LabelSpace
from models.segmenters import JOINT, SegmenterName
from models.weights import WEIGHTS, WeightsError
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import log
from pipeline.base.places import Folder, NameOrPlace, as_given
from pipeline.storage.copies import local_copy
from pipeline.storage.files import read_bytes
from pipeline.tables.label_space import is_same, load_labels
from pipeline.training.sets import Part, TrainingSet, behind, is_synthetic
from pipeline.training.tasks.segmenter import SegmenterTask
from pipeline.training.terms import SegmenterKeys, Terms


@dataclass(frozen=True)
class Teacher:
    """What labels pictures where it is no set's segmenter.

    Attributes:
        task, terms: of its training with the first set; of "joint" there is none.
        weights: folder of those that it has already; "" for none.
    """

    task: SegmenterTask
    terms: Terms
    weights: str = ""

    def check(self, key: str = "teacher.weights") -> None:
        """Looks at what it begins with before anything is trained; `key` is that of the config.

        Raises:
            ConfigError: its weights are of another network.
            DataError: its bundle has other classes, or another ignore index or meaning of 0.
        """
        if self.task.segmenter in JOINT:
            bundle = str(local_copy(self.task.pretrained))
            if not is_same(load_labels(bundle), self.task.labels):
                raise DataError(
                    f"teacher.pretrained: {self.task.pretrained} has other classes than the pictures, or another "
                    "ignore index or meaning of 0; one number would mean two things. Give a bundle of the same label "
                    "space"
                )
        if self.weights:
            try:
                self.task.load(local_copy(self.weights))
            except WeightsError as error:
                why = " ".join(str(error).split())[:200]
                raise ConfigError(
                    f"{key}: {as_given(self.weights)} do not fit {self.task.segmenter} of width "
                    f"{self.task.width}: {why} ...; give the segmenter and width they were made with"
                ) from error

    @property
    def is_trained(self) -> bool:
        """Whether it is trained here."""
        return not self.weights and self.task.segmenter != "joint"


class TeacherKeys(Config):
    """What labels pictures in the first round; without any key it is the segmenter of the labelled pairs alone."""

    segmenter: SegmenterName | Literal[""] = ""
    """Its network, where it is another. "joint_head" learns from few masks on what the joint network of the bundle
    `pretrained` makes of pictures; "joint" is that network's own masks of pictures, and is not trained."""
    pretrained: NameOrPlace = ""
    """What it begins with; of the joint ones the folder of the bundle."""
    steps: int = Field(0, ge=0)
    """Of its training; 0 takes as many as all others."""
    weights: Folder = ""
    """Those of an earlier training, in place of one."""

    @model_validator(mode="after")
    def _fits(self) -> TeacherKeys:
        if not self.segmenter and (self.pretrained or self.steps):
            raise ValueError("pretrained and steps of a teacher belong to its segmenter: name one")
        if self.segmenter in JOINT and not self.pretrained:
            raise ValueError(f"segmenter {self.segmenter} needs the folder of a bundle: give it as `pretrained`")
        if self.segmenter == "unet_small" and self.pretrained:
            raise ValueError("segmenter unet_small has no pre-trained weights: leave `pretrained` out")
        return self

    @property
    def is_trained(self) -> bool:
        """Whether the job trains it."""
        return not self.weights and self.segmenter != "joint"

    def made(self, keys: SegmenterKeys, labels: LabelSpace, first: TrainingSet) -> Teacher | None:
        """The teacher; None where it is the segmenter of the first set. Looks at the weights that it begins with.

        Args:
            keys: of the segmenter that is trained on its labels.
            labels: the classes.
            first: what it learns from.
        """
        if self.segmenter:
            steps = self.steps or keys.terms(first).optimisation().num_steps
            own = {"segmenter": self.segmenter, "pretrained": self.pretrained, "steps": steps}
            keys = keys.model_copy(update={**own, "recipe": "published", "batch_size": 0, "learning_rate": 0.0})
            if self.is_trained:
                keys.check_pretrained(labels)
        elif not self.weights:
            return None
        return Teacher(keys.task(labels), keys.terms(first), self.weights)


def seeing(task: SegmenterTask, weights: Sequence[str], device: str) -> Callable[[np.ndarray], np.ndarray]:
    """What segmenters see together: (B, H, W, 3) uint8 -> (B, K + 1, H, W) float32, the mean of their shares of
    classes. The folders of their weights may lie on a store."""
    nets = [task.load(local_copy(one)).to(device) for one in weights]
    return lambda images: task.shares(nets, torch.from_numpy(images).to(device)).float().cpu().numpy()


def judges_of(folders: Sequence[str], task: SegmenterTask, terms: Terms, key: str) -> tuple[tuple[str, str], ...]:
    """The weights of trained segmenters that are to judge generated pairs, and the digest of each.

    Args:
        folders: of the weights.
        task, terms: of such a segmenter.
        key: of the config, for messages.

    Raises:
        ConfigError: weights of another network, or of one that learned from generated pairs.
    """
    for folder in folders:
        Teacher(task, terms, folder).check(key)
        learned = known_behind(folder, key, "it must be real pairs")
        if made := [as_given(one) for one, _ in learned if is_synthetic(one)]:
            raise ConfigError(
                f"{key}: {as_given(folder)} learned from generated pairs ({', '.join(made)}) and would find them good; "
                "give one that learned from real pairs"
            )
    return tuple((folder, weights_digest(folder)) for folder in folders)


def known_behind(weights: str, key: str, must: str) -> list[Part]:
    """What a trained segmenter learned from, as far as that is at hand; warns where it is not.

    Args:
        weights: their folder; "" for none.
        key: of the config, for messages.
        must: what it has to be, for messages.
    """
    here, gone = behind(weights) if weights else ([], [])
    if weights and not here and not gone:
        log.warning("%s: nothing beside %s says what it learned from; %s", key, as_given(weights), must)
    if gone:
        log.warning(
            "%s: %s learned from %s, which is not at hand any more; %s",
            key, as_given(weights), ", ".join(map(as_given, gone)), must,
        )  # fmt: skip
    return here


def weights_digest(weights: str) -> str:
    """Of a segmenter's weights in a folder."""
    return hashlib.blake2b(read_bytes(f"{weights}/{WEIGHTS}"), digest_size=8).hexdigest()
