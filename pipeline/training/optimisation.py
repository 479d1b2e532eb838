"""The recipe of a training, and the optimisers that follow it."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.precision import Precision
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError


class Optimisation(Config):
    """How a network is trained. Lengths count examples seen, over all workers."""

    num_examples: int = Field(ge=1)
    """Length of the training."""
    batch_size: int = Field(64, ge=1)
    """Examples of one optimiser step, over all workers and accumulation steps."""
    accumulation: int = Field(1, ge=1)
    """Parts that a worker cuts its share of a batch into, to bound memory; the result is the same."""
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """"adamw8bit" keeps its state in a quarter of the memory (8-bit optimizers, ICLR 2022; needs the package torchao).
    "muon" serves the matrices of transformer blocks; everything else gets AdamW all the same."""
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
    precision: Precision = "bfloat16"
    """Of activations, and of the weights that "fsdp" gathers; kept weights and sums of gradients are always float32."""

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


def optimizers(net: nn.Module, settings: Optimisation) -> list[torch.optim.Optimizer]:
    """AdamW over all parameters, or Muon over the matrices inside transformer blocks and AdamW over the rest."""
    matrices = [
        parameter
        for name, parameter in net.named_parameters()
        if settings.optimizer == "muon" and parameter.ndim == 2 and "block" in name
    ]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in net.parameters() if parameter.requires_grad and id(parameter) not in chosen]
    adamw: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
    }
    found: list[torch.optim.Optimizer] = [
        _adamw8bit()(others, **adamw)
        if settings.optimizer == "adamw8bit"
        else torch.optim.AdamW(others, **adamw, fused=True)
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
            group["peak_rate"] = float(group["lr"])
    return found


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Sets the learning rate to a share of its peak."""
    for group in optimizer.param_groups:
        rate = group["peak_rate"] * share
        group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate


def in_float(memory: Tensor) -> Tensor:
    """What an optimiser remembers as plain float32; 8-bit states are blocks of codes with scales."""
    return memory.dequantize() if type(memory).__module__.startswith("torchao.") else memory


def _adamw8bit() -> Any:
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            f"optimisation.optimizer adamw8bit needs torchao ({error}): pip install torchao on every machine"
        ) from error
    return AdamW8bit
