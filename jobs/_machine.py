"""The machine that `jobs.start` plans for, the steps of a plan, and how the joint network fits."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.base.config import Config
from pipeline.base.strict_yaml import load_yaml
from pipeline.training.needs import Needs, training_needs
from pipeline.training.task import Task, Tensors
from pipeline.training.tasks.joint import JointConfig, JointTask

OWN = Path(__file__).parent / "configs" / "own"
GPU_GIB, GPU_TFLOPS = 80.0, 40.0
"""Of GPUs that are planned for and are not here."""
SHARE_OF_PEAK = 1 / 3
"""What trainings reach of a product of matrices."""
SHARE_OF_MEMORY = 0.85
"""What may be planned of a GPU's memory: libraries and what lies in between take the rest."""
GIB = 2**30


@dataclass(frozen=True)
class Here:
    """The machine that is planned for: GPUs, the memory of each (or of the machine) in bytes, operations a second of
    each in 10^12, and how these are known."""

    gpus: int
    memory: float
    cpus: int
    tflops: float
    how: str

    @property
    def each(self) -> str:
        """What does so many operations a second."""
        return "each GPU" if self.gpus else "this machine"

    def __str__(self) -> str:
        if self.gpus:
            return f"{self.gpus} GPU{'s' * (self.gpus > 1)} of {self.memory / GIB:.0f} GiB"
        return f"{self.cpus} CPU cores, no GPU"


@dataclass(frozen=True)
class Step:
    """A command.

    Attributes:
        job, file, arguments: `python -m jobs.JOB OUT/FILE ARGUMENTS`.
        why: what it does.
        kind, values: the config in the file; no values, no file.
        hours: of the machine; None where they are not reckoned.
    """

    job: str
    file: str
    why: str
    kind: type[Config]
    values: Mapping[str, Any]
    arguments: str = ""
    hours: float | None = None


@dataclass(frozen=True)
class Way:
    """All steps; why they are such; the disk they take, and what it leaves out."""

    steps: tuple[Step, ...]
    why: str
    disk_gib: float
    further: str


def here(gpus: int, gpu_gib: float, tflops: float) -> Here:
    """The machine, measured for a second where nothing else is said."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = there if gpus < 0 else gpus
    cpus = os.cpu_count() or 1
    if gpus and not there:
        how = "as given" if tflops else "an estimate for an A100; correct it by --tflops"
        return Here(gpus, (gpu_gib or GPU_GIB) * GIB, cpus, tflops or GPU_TFLOPS, how)
    device = torch.device("cuda" if gpus else "cpu")
    memory = torch.cuda.get_device_properties(0).total_memory if gpus else 0
    how = "as given" if tflops else f"a third of what a product of matrices reaches here, {device.type}"
    return Here(gpus, gpu_gib * GIB or memory, cpus, tflops or SHARE_OF_PEAK * _peak(device) / 1e12, how)


def _peak(device: torch.device) -> float:
    """Operations a second of a product of matrices."""
    size, dtype = (4096, torch.bfloat16) if device.type == "cuda" else (768, torch.float32)
    one = torch.randn(size, size, device=device, dtype=dtype)
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        float((one @ one)[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def fit_joint(machine: Here) -> dict[str, Any] | None:
    """How the joint network of UniDiffuser's size fits GPUs: batch of 32 in parts, whole or in slices; None: not."""
    values = load_yaml((OWN / "joint.yaml").read_text())
    num = 2 ** int(math.log2(min(machine.gpus, 32)))  # a batch of 32 is shared evenly
    kinds: list[tuple[str, bool]] = [("ddp", False), ("ddp", True), *([("fsdp", True)] if num > 1 else [])]
    for strategy, recompute in kinds:
        workers = {"num": num, "cpus": 4, "gpus": 1}
        fixed = {"strategy": strategy, "recompute_activations": recompute, "workers": workers}
        optimisation = {**values["optimisation"], "accumulation": 32 // num}
        needs = joint_needs(
            JointConfig.model_validate({**values, **fixed, "initial": "", "optimisation": optimisation})
        )
        row = needs.memory.get("activations", 0.0)
        for rows in (8, 4, 2, 1):
            if num * rows <= 32 and needs.total + (rows - 1) * row < SHARE_OF_MEMORY * machine.memory:
                return {**fixed, "optimisation": {**optimisation, "accumulation": 32 // (num * rows)}}
    return None


def joint_needs(config: JointConfig) -> Needs:
    """What a training of the joint network takes."""
    task, example = joint_task(config)
    return training_needs(
        task, config.optimisation, example, world_size=config.workers.num, strategy=config.strategy,
        recompute=config.recompute_activations, fused_attention=config.workers.gpus > 0,
    )  # fmt: skip


def joint_task(config: JointConfig) -> tuple[Task, Tensors]:
    """The task, and one row of what it learns from, by sizes alone."""
    net = config.net
    shapes: dict[str, tuple[int, ...]] = {
        "image_latent": (net.image_channels, net.latent_size, net.latent_size),
        "mask_latent": (net.mask_channels, net.latent_size, net.latent_size),
        "image_embedding": (1, net.clip_image_width),
        "text_embedding": (net.num_text_tokens, net.text_width),
    }
    example = {key: torch.empty(1, *shape, dtype=torch.float16, device="meta") for key, shape in shapes.items()}
    return JointTask(config, "", "", shapes), example
