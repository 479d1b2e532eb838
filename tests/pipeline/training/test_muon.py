"""Muon for many matrices at once: torch's numbers, and no step where a gradient is not finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.training import muon
from pipeline.training.muon import Muon

SHAPES = [(8, 8), (8, 24), (24, 8), (8, 8), (24, 8)]


def weights() -> list[torch.nn.Parameter]:
    noise = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=noise)) for shape in SHAPES]


def give_gradients(parameters: list[torch.nn.Parameter], seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    for one in parameters:
        one.grad = torch.randn(one.shape, generator=noise)


@pytest.mark.parametrize("changes", [{}, {"adjust_lr_fn": "match_rms_adamw"}, {"nesterov": False}])
@pytest.mark.parametrize("at_once", [2**24, 64])
def test_the_steps_are_those_of_torch(changes, at_once, monkeypatch):
    monkeypatch.setattr(muon, "MOST_AT_ONCE", at_once)
    own, other = weights(), weights()
    settings = {"lr": 0.03, "weight_decay": 0.1, **changes}
    optimizers = [Muon(own, **settings), torch.optim.Muon(other, **settings)]
    for seed in range(4):
        for parameters, optimizer in zip((own, other), optimizers, strict=True):
            give_gradients(parameters, seed)
            optimizer.step()
    for one, same in zip(own, other, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(
            optimizers[0].state[one]["momentum_buffer"], optimizers[1].state[same]["momentum_buffer"]
        )


def test_weights_without_a_gradient_stay():
    parameters = weights()
    give_gradients(parameters, 1)
    parameters[1].grad = None
    before = parameters[1].detach().clone()
    Muon(parameters, lr=0.1).step()
    assert torch.equal(parameters[1], before)


def test_a_gradient_that_is_not_finite_changes_nothing():
    parameters = weights()
    optimizer = Muon(parameters, lr=0.1)
    give_gradients(parameters, 1)
    optimizer.step()
    before = [one.detach().clone() for one in parameters], memory(optimizer, parameters)
    give_gradients(parameters, 2)
    parameters[0].grad[0, 0] = torch.nan  # type: ignore[index]
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(map(torch.equal, before[0], parameters))
    assert all(map(torch.equal, before[1], memory(optimizer, parameters)))
    give_gradients(parameters, 3)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert not any(map(torch.equal, before[0], parameters))


def memory(optimizer: Muon, parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    return [optimizer.state[one]["momentum_buffer"].clone() for one in parameters]
