"""The one training loop: batches in, reports out. Plain torch, without Ray, so it runs wherever torch does."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.errors import JoDiffusionError
from pipeline.training.state import TrainState
from pipeline.training.task import Task, Tensors


class TrainingError(JoDiffusionError):
    """A training that cannot go on."""


class Optimisation(Config):
    """How a network is trained. Lengths count examples seen, over all workers."""

    num_examples: int = Field(ge=1)
    """Length of the training."""
    batch_size: int = Field(64, ge=1)
    """Examples of one optimiser step, over all workers and accumulation steps."""
    accumulation: int = Field(1, ge=1)
    """Parts that a worker cuts its share of a batch into, to bound memory."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon" serves the matrices of transformer blocks; everything else gets AdamW all the same."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    matrix_learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of Muon ("muon" only)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    warmup_examples: int = Field(0, ge=0)
    """The learning rate rises linearly over them."""
    decay_share: float = Field(0.0, ge=0, le=1)
    """Last share of the training over which the learning rate falls linearly to zero; 0 keeps it constant."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay per step of the averaged weights, which are what everything uses afterwards."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of activations; weights and optimiser state are always float32."""

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return math.ceil(self.num_examples / self.batch_size)

    def rate(self, step: int) -> float:
        """Learning rate at a step, as a share of the peak."""
        seen = step * self.batch_size
        rise = min(1.0, (seen + self.batch_size) / self.warmup_examples) if self.warmup_examples else 1.0
        left = 1 - seen / self.num_examples
        return rise * (min(1.0, left / self.decay_share) if self.decay_share else 1.0)


class Report(NamedTuple):
    """One optimiser step. `losses` holds the total as "loss" and the parts of the task."""

    step: int
    examples: int
    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float


def optimizers(net: nn.Module, settings: Optimisation) -> list[torch.optim.Optimizer]:
    """AdamW over all parameters, or Muon over the matrices inside transformer blocks and AdamW over the rest."""
    matrices = [
        parameter
        for name, parameter in net.named_parameters()
        if settings.optimizer == "muon" and parameter.ndim == 2 and "block" in name
    ]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in net.parameters() if parameter.requires_grad and id(parameter) not in chosen]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            others, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, foreach=True
        )
    ]
    if matrices:
        found.append(
            torch.optim.Muon(
                matrices,
                lr=settings.matrix_learning_rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak_rate"] = group["lr"]
    return found


def step_generator(seed: int, rank: int, step: int) -> torch.Generator:
    """Random numbers of one step of one worker: the same whether or not the run was ever stopped."""
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def train(
    task: Task,
    net: nn.Module,
    state: TrainState,
    batches: Iterator[Tensors],
    settings: Optimisation,
    *,
    device: torch.device,
    seed: int = 0,
    rank: int = 0,
) -> Iterator[Report]:
    """Trains from `state.step` to the end, yielding after every optimiser step.

    Args:
        task: gives the loss.
        net: `state.net`, or its DistributedDataParallel wrapper.
        state: weights, averages, optimisers and step; advanced in place, may be saved between any two reports.
        batches: this worker's share of every batch, starting at `state.step`.
        settings: the recipe.

    Raises:
        TrainingError: loss or gradient is not finite; the weights are those before the bad step.
    """
    while state.step < settings.num_steps:
        began = time.monotonic()
        generator = step_generator(seed, rank, state.step)
        losses = accumulate_gradients(task, net, next(batches), settings, device, generator)
        norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), settings.gradient_clip).item()
        if not math.isfinite(norm):  # the norm is that of all workers' gradients, so that all stop together
            raise TrainingError(
                f"step {state.step}: loss {losses} with gradient norm {norm} is not finite; this step changed nothing. "
                "Lower the learning rate or take float32 under another run name, or look at the batch's data."
            )
        rate = settings.rate(state.step)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_rate"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.update_average(settings.ema_decay)
        state.seconds += time.monotonic() - began
        examples = min(state.step * settings.batch_size, settings.num_examples)
        yield Report(state.step, examples, losses, norm, settings.learning_rate * rate)


def accumulate_gradients(
    task: Task,
    net: nn.Module,
    batch: Tensors,
    settings: Optimisation,
    device: torch.device,
    generator: torch.Generator,
) -> dict[str, float]:
    """Adds the gradients of one batch, part by part; returns the mean losses of the parts."""
    num_rows = len(next(iter(batch.values())))
    sums: dict[str, Tensor] = {}
    bounds = [num_rows * part // settings.accumulation for part in range(settings.accumulation + 1)]
    for start, end in pairwise(bounds):
        part = {name: value[start:end].to(device, non_blocking=True) for name, value in batch.items()}
        share = (end - start) / num_rows
        # Workers exchange gradients once a step, with the last part.
        local: Any = getattr(net, "no_sync", contextlib.nullcontext)
        with local() if end < num_rows else contextlib.nullcontext():
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                loss, parts = task.loss(net, part, generator=generator)
            (loss * share).backward()
        for name, value in {"loss": loss.detach(), **parts}.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + share * value.float()
    return {name: value.item() for name, value in sums.items()}
