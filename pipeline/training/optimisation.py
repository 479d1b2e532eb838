"""The recipe of a training, and the optimisers that follow it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from models.precision import Precision
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.training.muon import Muon

LATER_KEYS = frozenset({"momentum", "decay_norms", "rate_factors", "poly_power", "poly_floor"})
"""Keys that older runs were saved without."""


class Optimisation(Config):
    """How a network is trained. Lengths count examples seen, over all workers."""

    num_examples: int = Field(ge=1)
    """Length of the training."""
    batch_size: int = Field(64, ge=1)
    """Examples of one optimiser step, over all workers and accumulation steps."""
    accumulation: int = Field(1, ge=1)
    """Parts that a worker cuts its share of a batch into, to bound memory. The result is the same where each row has a
    loss of its own; means over known pixels, and batch norms, are of a part."""
    optimizer: Literal["adamw", "adamw8bit", "muon", "sgd"] = "adamw"
    """"adamw8bit" keeps its state in a quarter of the memory (8-bit optimizers, ICLR 2022; needs the package torchao).
    "muon" serves the matrices of transformer blocks; everything else gets AdamW all the same. "sgd" is
    plain descent with momentum, which convolutional segmenters are published with."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW or SGD."""
    matrix_learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate of Muon ("muon" only)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    momentum: float = Field(0.9, gt=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay; with SGD, the usual one, which is part of the gradient."""
    decay_norms: bool = True
    """Decay also what scales and shifts (norms), and embeddings."""
    rate_factors: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Beginning of parameters' names -> what their learning rate is multiplied with, as 0.1 for a pre-trained backbone.
    Of several that fit, the longest counts."""
    warmup_examples: int = Field(0, ge=0)
    """The learning rate rises linearly over them."""
    decay_share: float = Field(0.0, ge=0, le=1)
    """Last share of the training over which the learning rate falls linearly to zero; 0 keeps it constant."""
    poly_power: float = Field(0.0, ge=0)
    """The learning rate falls as (1 - share of the training)^power, as segmenters' usually does; 0 leaves that out."""
    poly_floor: float = Field(0.0, ge=0, lt=1)
    """Share of the peak that such a fall ends at."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay per step of the averaged weights, which are what everything uses afterwards."""
    precision: Precision = "bfloat16"
    """Of activations, and of the weights that "fsdp" gathers; kept weights and sums of gradients are always float32."""

    @model_serializer(mode="wrap")
    def _as_it_was_saved(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs are named by these values and compared with saved ones; those that came later count where they are used.
        return {
            name: value
            for name, value in handler(self).items()
            if name not in LATER_KEYS or getattr(self, name) != type(self).model_fields[name].default
        }

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return math.ceil(self.num_examples / self.batch_size)

    def rate(self, step: int) -> float:
        """Learning rate at a step, as a share of the peak."""
        seen = step * self.batch_size
        rise = min(1.0, (seen + self.batch_size) / self.warmup_examples) if self.warmup_examples else 1.0
        left = 1 - seen / self.num_examples
        if self.poly_power:
            rise *= self.poly_floor + (1 - self.poly_floor) * left**self.poly_power
        return rise * (min(1.0, left / self.decay_share) if self.decay_share else 1.0)


def optimizers(net: nn.Module, settings: Optimisation) -> list[torch.optim.Optimizer]:
    """AdamW or SGD over all parameters, or Muon over the matrices inside transformer blocks and AdamW over the rest.

    Raises:
        ConfigError: learning rates for parameters that the network does not have, or torchao is missing.
    """
    matrices = [
        parameter
        for name, parameter in net.named_parameters()
        if settings.optimizer == "muon" and parameter.ndim == 2 and "block" in name
    ]
    chosen = {id(parameter) for parameter in matrices}
    others = [
        (name, parameter)
        for name, parameter in net.named_parameters()
        if parameter.requires_grad and id(parameter) not in chosen
    ]
    found: list[torch.optim.Optimizer] = [_optimizer(_groups(net, others, settings), settings)]
    if matrices:
        # A CPU gains nothing by it: its steps took a fifth longer.
        one_by_one = any(isinstance(one, DTensor) or one.device.type == "cpu" for one in matrices)
        found.append(
            (torch.optim.Muon if one_by_one else Muon)(
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


def _optimizer(groups: list[dict[str, Any]], settings: Optimisation) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, **common, momentum=settings.momentum, fused=True)
    if settings.optimizer == "adamw8bit":
        eight_bit: torch.optim.Optimizer = _adamw8bit()(groups, **common, betas=settings.betas)
        return eight_bit
    return torch.optim.AdamW(groups, **common, betas=settings.betas, fused=True)


def _groups(net: nn.Module, named: list[tuple[str, nn.Parameter]], settings: Optimisation) -> list[dict[str, Any]]:
    """Parameters that are trained alike: all of them in one group, unless the recipe says otherwise."""
    unknown = [start for start in settings.rate_factors if not any(name.startswith(start) for name, _ in named)]
    if unknown:
        raise ConfigError(
            f"optimisation.rate_factors: no parameter's name begins with {' or '.join(unknown)}; names of this network "
            f"begin with {', '.join(sorted({name.partition('.')[0] for name, _ in named}))}"
        )
    spared = set() if settings.decay_norms else _scales(net)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        start = max((start for start in settings.rate_factors if name.startswith(start)), key=len, default="")
        factor = settings.rate_factors.get(start, 1.0)
        groups.setdefault((factor, id(parameter) in spared), []).append(parameter)
    return [
        {"params": parameters}
        | ({} if factor == 1 else {"lr": settings.learning_rate * factor})
        | ({"weight_decay": 0.0} if undecayed else {})
        for (factor, undecayed), parameters in groups.items()
    ]


def _scales(net: nn.Module) -> set[int]:
    """Ids of the parameters of norms and embeddings, tables of relative places among them."""
    kinds = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.Embedding)
    found = {id(one) for module in net.modules() if isinstance(module, kinds) for one in module.parameters()}
    parts = ("position_bias", "level_embed")
    return found | {id(one) for name, one in net.named_parameters() if any(part in name for part in parts)}


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Sets the learning rate to a share of its peak."""
    for group in optimizer.param_groups:
        rate = group["peak_rate"] * share
        group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate


def heeds_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step changes nothing where the tensor `found_inf` is 1."""
    return isinstance(optimizer, Muon) or bool(optimizer.defaults.get("fused"))


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
