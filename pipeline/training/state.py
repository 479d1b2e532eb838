"""Everything a training must remember to go on: weights, their average, optimisers, step."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

FILE = "state.pt"


class TrainState:
    """The state of one training; every worker holds the same."""

    def __init__(self, net: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        self.net = net
        self.average = copy.deepcopy(net).requires_grad_(False).eval()
        self.optimizers = optimizers
        self.step = 0
        self.seconds = 0.0
        """Time spent in steps so far, over all starts of the run."""

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Moves the averaged weights towards the current ones; early steps count more, or the start would linger."""
        weight = 1 - min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), weight)
        for mean, current in zip(self.average.buffers(), self.net.buffers(), strict=True):
            mean.copy_(current)

    def save(self, folder: str | Path) -> None:
        """Writes one file into `folder`."""
        torch.save(
            {
                "net": self.net.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "step": self.step,
                "seconds": self.seconds,
            },
            Path(folder) / FILE,
        )

    def load(self, folder: str | Path) -> None:
        """Goes on from what `save` wrote."""
        saved = torch.load(Path(folder) / FILE, weights_only=True, map_location="cpu")
        self.net.load_state_dict(saved["net"])
        self.average.load_state_dict(saved["average"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.step = saved["step"]
        self.seconds = saved.get("seconds", 0.0)
