"""The recipe says how fast, and each parameter gets the optimiser that suits it."""

from __future__ import annotations

import sys

import pytest
from torch import nn

from pipeline.base.errors import ConfigError
from pipeline.training.optimisation import optimizers, set_rate
from tests.pipeline.training.fabricated import doubling_recipe


def test_rate_rises_stays_and_falls():
    settings = doubling_recipe(num_examples=1600, warmup_examples=160, decay_share=0.5)
    rates = [settings.rate(step) for step in range(settings.num_steps)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == 1.0 and rates[49] == 1.0
    assert 0 < rates[-1] < 0.03


def test_muon_takes_only_matrices_of_blocks():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Linear(4, 4)
            self.head = nn.Linear(4, 2)

    net = Net()
    adamw, muon = optimizers(net, doubling_recipe(optimizer="muon"))
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(net.block.weight)]
    assert len(adamw.param_groups[0]["params"]) == 3


def test_the_rate_is_what_the_recipe_says_at_every_step():
    settings = doubling_recipe(num_examples=160, batch_size=16, warmup_examples=64, decay_share=0.5)
    assert [settings.rate(step) for step in range(settings.num_steps)] == pytest.approx(
        [0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    )
    assert {doubling_recipe().rate(step) for step in range(40)} == {1.0}, "constant where nothing is asked for"


def test_a_last_batch_that_is_not_full_is_a_step():
    assert [doubling_recipe(num_examples=num, batch_size=16).num_steps for num in (16, 17, 1)] == [1, 2, 1]


def test_rates_are_set_as_shares_of_each_optimisers_own_peak():
    net = nn.ModuleDict({"block": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    both = optimizers(net, doubling_recipe(optimizer="muon", learning_rate=0.5, matrix_learning_rate=0.25))
    for share in (0.5, 0.1, 1.0):  # from the peak, not from the last one
        for optimizer in both:
            set_rate(optimizer, share)
        assert [one.param_groups[0]["lr"] for one in both] == pytest.approx([0.5 * share, 0.25 * share])


def test_what_is_not_trained_has_no_optimiser():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    (adamw,) = optimizers(net, doubling_recipe())
    assert [id(one) for one in adamw.param_groups[0]["params"]] == [id(one) for one in net[0].parameters()]


def test_eight_bits_without_their_package_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ConfigError, match="adamw8bit needs torchao .* pip install torchao on every machine"):
        optimizers(nn.Linear(2, 2), doubling_recipe(optimizer="adamw8bit"))
