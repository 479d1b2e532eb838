"""What the loop needs to know of a network to train it: a training is one class with these methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from models.draws import Draws
from pipeline.tables.schema import Batch

Tensors = dict[str, Tensor]


class Evaluation(NamedTuple):
    """What a task says of a network: numbers, (H, W, 3) uint8 pictures by file name, and files that are kept beside the
    scores."""

    metrics: dict[str, float]
    pictures: dict[str, np.ndarray]
    files: Mapping[str, bytes] = MappingProxyType({})


class Task(Protocol):
    """One network to train. Instances travel to the workers, so they hold settings and paths, never weights."""

    @property
    def judged_by(self) -> tuple[str, int]:
        """The metric of `evaluate` that says which checkpoint is best, and 1 where lower is better, -1 where higher."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the shards that training reads."""
        ...

    def decode(self, batch: Batch) -> Batch:
        """Stage: encoded columns -> arrays of equal shape, as small as can be (uint8, float16)."""
        ...

    def build(self) -> nn.Module:
        """The network to train, with fresh weights."""
        ...

    def loss(self, net: nn.Module, batch: Tensors, draws: Draws) -> tuple[Tensor, Tensors]:
        """The scalar loss of a decoded batch, and its parts for the log: (B,) each, NaN for rows that have none."""
        ...

    def evaluate(self, net: nn.Module, held_out: Tensors) -> Evaluation:
        """Judges averaged weights on held-out examples, without gradients."""
        ...

    def save(self, net: nn.Module, examples: Tensors, folder: Path) -> None:
        """Writes the averaged weights, ready for use, into `folder`; `examples` are held-out ones, for statistics."""
        ...
