"""What the steps of a plan take: hours, from the operations of each network and from what a GPU waits for its host, and
disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch

from jobs._machine import Here, joint_task
from models.labels import LabelSpace
from models.reverse import PRESETS, SamplerSettings
from pipeline.label import LabelConfig
from pipeline.training.needs import PASSES, training_work
from pipeline.training.sets import TrainingSet
from pipeline.training.task import Task
from pipeline.training.tasks.annotation_vae import AnnotationTask
from pipeline.training.tasks.image_vae import ImageTask
from pipeline.training.tasks.joint import JointConfig
from pipeline.training.tasks.latents import VAEConfig
from pipeline.training.tasks.segmenter import SegmenterTask
from pipeline.training.terms import SegmenterKeys

ANY_LABELS = LabelSpace.custom("any", tuple(map(str, range(20))))
STEP_S: dict[str, float] = {"segmenter": 0.015, "vae": 0.017, "joint": 0.1}
"""Seconds of a step of the small networks on a GPU, which waits for its host in most of them; larger networks take
those at least. Measured on an H200 (docs/LOG.md, 2026-11-27)."""
PIXEL_BYTES = 2
"""Of a lossless picture and its mask in a shard."""
RECOMPUTED = (PASSES + 1) / PASSES
"""Work of a step whose activations are computed again, as a share of that of one whose are kept."""
NO_SIZES = (RuntimeError, NotImplementedError, TypeError, ValueError)
"""What is raised where a network cannot run on sizes alone."""


def training_hours(
    machine: Here,
    kind: Literal["segmenter", "vae", "joint"],
    work: Callable[[], float],
    steps: float,
    *,
    workers: int = 1,
    recompute: bool = False,
) -> float | None:
    """Hours of a training; None where the network cannot run on sizes alone.

    Args:
        machine: that is planned for.
        kind: of network.
        work: operations of a step, over all workers.
        steps: of the optimiser.
        workers: that share each step.
        recompute: activations in the backward pass.
    """
    try:
        step_s = work() * (RECOMPUTED if recompute else 1) / (machine.tflops * 1e12 * workers)
    except NO_SIZES:
        return None
    return steps * max(step_s, STEP_S[kind] if machine.gpus else 0.0) / 3600


def in_turns(groups: Sequence[Sequence[int]], at_once: int) -> float:
    """Steps, one after the other, of groups of trainings, each of so many steps: so many of a group run at once, and a
    group begins when that before it has ended."""
    return sum(max(max(group), sum(group) / at_once) for group in groups if group)


def segmenter_hours(machine: Here, config: SegmenterKeys, groups: Sequence[Sequence[int]]) -> float | None:
    """Of groups of trainings of a segmenter, each of so many steps."""
    lasting = config.model_copy(update={"steps": config.steps or 1, "pretrained": ""})
    batch_size = lasting.terms(TrainingSet(train=("any",))).optimisation().batch_size
    task, side = lasting.task(ANY_LABELS), config.size_px or config.crop_px
    steps = in_turns(groups, config.at_once)
    return training_hours(
        machine, "segmenter", lambda: _segmenter_work(task, side) * batch_size, steps, workers=config.workers.num
    )


@cache  # several jobs train the same
def _segmenter_work(task: SegmenterTask, side: int) -> float:
    pictures = {
        "image": torch.empty(1, side, side, 3, dtype=torch.uint8, device="meta"),
        "mask": torch.empty(1, side, side, dtype=torch.uint8, device="meta"),
    }
    return training_work(task, pictures)


def label_groups(config: LabelConfig) -> list[list[int]]:
    """Steps of the trainings of a labelling job that has pairs to judge on, at most: of the teacher, then of all
    ways."""
    ways = len(set(config.holds)) * len(set(config.ignore_below))
    return [[config.steps] * config.seeds, [config.steps] * config.seeds * ways]


def evaluate_groups(values: Mapping[str, Any]) -> list[list[int]]:
    """Steps of the trainings of an evaluation that chooses lengths and augmentation, at most: of the tries, then of all
    rows with the most steps."""
    longest = max(values["try_steps"])
    rows = len(values["sets"]) * values["seeds"]
    return [values["try_steps"], [longest] * len(values["try_augmentations"]), [longest] * rows]


def vae_hours(machine: Here, config: VAEConfig) -> float | None:
    """Of a VAE's training."""
    side = config.size_px
    if config.net == "image":
        task: Task = ImageTask(config)
        example = {"image": torch.empty(1, side, side, 3, dtype=torch.uint8, device="meta")}
    else:
        task = AnnotationTask(ANY_LABELS, config)
        example = {"mask": torch.empty(1, side, side, dtype=torch.uint8, device="meta")}
    recipe, num = config.optimisation, config.workers.num
    return training_hours(
        machine, "vae", lambda: training_work(task, example) * recipe.batch_size, recipe.num_steps, workers=num
    )


def joint_hours(machine: Here, config: JointConfig) -> float | None:
    """Of the joint network's training."""
    recipe = config.optimisation
    return training_hours(
        machine, "joint", lambda: training_work(*joint_task(config)) * recipe.batch_size, recipe.num_steps,
        workers=config.workers.num, recompute=config.recompute_activations,
    )  # fmt: skip


def generating_hours(machine: Here, config: JointConfig, preset: str, pairs: int, workers: int) -> float | None:
    """Of the joint network's passes for so many pairs: two for each step that is guided."""
    settings = SamplerSettings(guidance=2.0, **PRESETS[preset])
    passes = sum(1 + settings.guided(step) for step in range(settings.steps))
    try:
        work = pairs * passes * training_work(*joint_task(config)) / PASSES
    except NO_SIZES:
        return None
    return work / (machine.tflops * 1e12 * workers) / 3600


def pairs_bytes(num: int, row_bytes: float, *, copies: int, to_label: int, label: Mapping[str, Any] | None) -> float:
    """Of what is read, captioned and labelled.

    Args:
        num: pictures.
        row_bytes: of each, as it is read.
        copies: runs that hold them all.
        to_label: pictures without masks.
        label: config of the job that labels them, whose every way keeps those that it was tried on; None: they stay so.
    """
    found = num * row_bytes * copies
    if label:
        config = LabelConfig.model_validate(label)
        tried = len(label_groups(config)[1]) * min(to_label, config.train_pictures)
        found += (to_label + tried) * PIXEL_BYTES * config.size_px**2
    return found


def in_batches_of(values: dict[str, Any], num_rows: int) -> None:
    """A batch that is no larger than the set."""
    largest = 2 ** int(math.log2(max(2, num_rows)))
    values["optimisation"] = {
        **values["optimisation"], "batch_size": min(values["optimisation"]["batch_size"], largest)
    }  # fmt: skip
