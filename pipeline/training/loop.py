"""The one training loop: batches in, reports out. Plain torch, without Ray, so it runs wherever torch does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.draws import Draws
from pipeline.base.errors import JoDiffusionError
from pipeline.training.optimisation import Optimisation, heeds_found_inf, set_rate
from pipeline.training.parallel import Group, exchanging, whole
from pipeline.training.state import TrainState
from pipeline.training.task import Task, Tensors


class TrainingError(JoDiffusionError):
    """A training that cannot go on."""


class Report(NamedTuple):
    """One optimiser step. Tensors lie on the device: reading one waits for the step to end.

    `losses` has the total of this worker's rows as "loss" and the parts of the task, each a sum and the number of rows
    that it is of, (2,) float32. `waited_s` is how long the step waited for its data.
    """

    step: int
    examples: int
    losses: Tensors
    gradient_norm: Tensor
    learning_rate: float
    waited_s: float


def train(
    task: Task,
    net: nn.Module,
    state: TrainState,
    batches: Iterator[Tensors],
    settings: Optimisation,
    *,
    group: Group | None = None,
    seed: int = 0,
) -> Iterator[Report]:
    """Trains from `state.step` to the end, yielding after every optimiser step.

    Args:
        task: gives the loss.
        net: `state.net`, or what `parallel.wrapped` made of it.
        state: weights, averages, optimisers and step; advanced in place, may be saved between any two reports.
        batches: this worker's rows of every batch, starting at `state.step`.
        settings: the recipe.
        group: the workers that train together, one alone by default.
        seed: of all randomness.

    Raises:
        TrainingError: loss or gradient is not finite; the weights are those before the bad step. On a GPU it is told
            when `stop_if_unfit` is asked, so that no step has to wait; in between nothing changes.
    """
    group = group or Group()
    before = time.monotonic()
    while state.step < settings.num_steps:
        asked = time.monotonic()
        batch = next(batches)
        waited_s = time.monotonic() - asked
        losses = accumulate_gradients(task, net, batch, settings, group, seed, state.step)
        norm = whole(torch.nn.utils.clip_grad_norm_(state.weights, settings.gradient_clip))
        # The norm is that of all workers' gradients, so that all stop together.
        state.unfit_step = torch.where((state.unfit_step < 0) & ~norm.isfinite(), state.step, state.unfit_step)
        # Other optimisers cannot be told to change nothing.
        if group.device.type == "cpu" or not all(map(heeds_found_inf, state.optimizers)):
            stop_if_unfit(state, losses)
        unfit = (state.unfit_step >= 0).float()
        rate = settings.rate(state.step)
        for optimizer in state.optimizers:
            set_rate(optimizer, rate)
            # An optimiser that heeds it changes nothing where this is 1, as for mixed precision's loss scaling.
            optimizer.found_inf, optimizer.grad_scale = unfit, None  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.update_average(settings.ema_decay)
        state.seconds += time.monotonic() - before
        before = time.monotonic()
        examples = min(state.step * settings.batch_size, settings.num_examples)
        yield Report(state.step, examples, losses, norm, settings.learning_rate * rate, waited_s)


def stop_if_unfit(state: TrainState, losses: Tensors | None = None) -> None:
    """Raises TrainingError if a step so far had a gradient that is not finite; waits for the device."""
    step = int(state.unfit_step)
    if step < 0:
        return
    parts = {name: part for name, part in (losses or {}).items() if "/" not in name}  # without those by time
    found = {name: float(total / count) for name, (total, count) in parts.items()}
    raise TrainingError(
        f"step {step}: the gradient is not finite; this step changed nothing{f' (losses {found})' if found else ''}. "
        "Lower the learning rate or take float32 under another run name, or look at the batch's data."
    )


def accumulate_gradients(
    task: Task, net: nn.Module, batch: Tensors, settings: Optimisation, group: Group, seed: int, step: int
) -> Tensors:
    """Adds the gradients of this worker's rows of a batch, part by part; returns sums and counts of the losses.

    Each row counts alike, however the rows are shared among workers and parts.
    """
    rows = group.rows(settings.batch_size)
    sums: Tensors = {}
    # Of many workers, each may have fewer rows than parts. All cut alike: slices are gathered anew for every part.
    num_parts = min(settings.accumulation, settings.batch_size // group.world_size)
    bounds = [len(rows) * part // num_parts for part in range(num_parts + 1)]
    for start, end in pairwise(bounds):
        part = {name: value[start:end].to(group.device, non_blocking=True) for name, value in batch.items()}
        draws = Draws(seed, step, rows[start:end], group.device)
        with exchanging(net, now=end == len(rows)):  # once a step, with the last part
            with torch.autocast(
                group.device.type,
                torch.bfloat16,
                enabled=settings.precision == "bfloat16",
                cache_enabled=False,
            ):
                loss, parts = task.loss(net, part, draws)
            # Workers' gradients are averaged, so that a share larger than others must count for more.
            (loss * ((end - start) * group.world_size / settings.batch_size)).backward()
        for name, value in {"loss": loss, **parts}.items():
            one = value.detach().float()
            if not one.ndim:
                one = one.expand(end - start)
            found = torch.stack([one.nansum(), (~one.isnan()).sum()])
            sums[name] = sums[name] + found if name in sums else found
    return sums
