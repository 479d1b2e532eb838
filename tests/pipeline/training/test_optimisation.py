"""The recipe says how fast, and each parameter gets the optimiser that suits it."""

from __future__ import annotations

import pytest
from torch import nn

from pipeline.training.optimisation import optimizers
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
