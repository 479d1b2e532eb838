"""Averaged weights are judged and kept with batch-norm statistics of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline.training.averaging import count_statistics


class Net(nn.Module):
    """A scale, whose outputs a batch norm sees."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.scale * x)


class LossOfNet:
    """The part of a task that counts."""

    def loss(self, net: nn.Module, batch: dict[str, torch.Tensor], draws: Any) -> Any:
        return net(batch["x"]).sum(), {}


def test_statistics_are_those_of_the_averaged_weights() -> None:
    x = 3 + 2 * torch.randn(256, 1, generator=torch.Generator().manual_seed(0))
    net = Net().requires_grad_(False)
    net.scale.fill_(0.5)  # the average; the last step's weights were others, and so were their statistics
    net.norm.running_mean = torch.tensor([100.0])
    net.eval()

    count_statistics(net, LossOfNet(), lambda num: {"x": x[:num]}, batch_size=64, seed=0)  # type: ignore[arg-type]

    assert not net.training and net.norm.momentum == 0.1, "as it was, but for the statistics"
    torch.testing.assert_close(net.norm.running_mean, (0.5 * x).mean(0))
    outputs = net(x)
    assert abs(outputs.mean().item()) < 0.01 and abs(outputs.std().item() - 1) < 0.02


def test_a_network_without_batch_norm_is_not_run() -> None:
    def asked(num: int) -> dict[str, torch.Tensor]:
        raise AssertionError("no examples are needed")

    count_statistics(nn.Linear(2, 2), LossOfNet(), asked, batch_size=4, seed=0)  # type: ignore[arg-type]
