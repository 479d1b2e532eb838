"""The recipe says how fast, and each parameter gets the optimiser that suits it."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from models.labels import GARMENTS
from pipeline.base.errors import ConfigError
from pipeline.training.loop import train
from pipeline.training.optimisation import Optimisation, optimizers, set_rate
from pipeline.training.parallel import Group
from pipeline.training.state import TrainState
from pipeline.training.tasks.segmenter import SegmenterTask
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


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_what_came_later_is_not_in_a_saved_config_that_does_not_use_it():
    plain = Optimisation(num_examples=100)
    assert list(plain.dump()) == [
        "num_examples",
        "batch_size",
        "accumulation",
        "optimizer",
        "learning_rate",
        "matrix_learning_rate",
        "betas",
        "weight_decay",
        "warmup_examples",
        "decay_share",
        "gradient_clip",
        "ema_decay",
        "precision",
    ]
    used = Optimisation(num_examples=100, poly_power=0.9, rate_factors={"0.": 0.1})
    assert {"poly_power", "rate_factors"} <= used.dump().keys()
    for one in (plain, used):
        assert Optimisation.model_validate(one.dump()) == one


def test_one_group_of_all_parameters_unless_a_recipe_says_otherwise():
    (plain,) = optimizers(net(), Optimisation(num_examples=1))
    assert len(plain.param_groups) == 1 and isinstance(plain, torch.optim.AdamW) and plain.param_groups[0]["fused"]


def test_rates_and_decay_by_name_and_kind():
    model = net()
    settings = Optimisation(num_examples=1, learning_rate=1.0, rate_factors={"0": 0.1, "0.b": 3.0}, decay_norms=False)
    (optimizer,) = optimizers(model, settings)
    found = {id(one): (g["peak_rate"], g["weight_decay"]) for g in optimizer.param_groups for one in g["params"]}
    by_name = {name: found[id(one)] for name, one in model.named_parameters()}
    assert by_name["0.weight"] == (0.1, 0.01) and by_name["0.bias"] == (3.0, 0.01)
    assert by_name["1.weight"] == by_name["1.bias"] == (1.0, 0.0) and by_name["2.weight"] == (1.0, 0.01)


def test_a_rate_for_parameters_that_are_not_there_is_refused():
    with pytest.raises(ConfigError, match="begins with backbone.; names of this network begin with 0, 1, 2"):
        optimizers(net(), Optimisation(num_examples=1, rate_factors={"backbone.": 0.1}))


def test_the_poly_fall():
    settings = Optimisation(num_examples=1000, batch_size=10, poly_power=0.9, poly_floor=0.01)
    assert settings.rate(0) == 1 and settings.rate(99) == pytest.approx(0.01 + 0.99 * 0.01**0.9)
    warm = settings.model_copy(update={"warmup_examples": 100})
    assert warm.rate(0) == pytest.approx(0.1)


def test_sgd_goes_on_from_its_memory_as_if_it_had_not_stopped():
    task = SegmenterTask(GARMENTS, "unet_small", 4)
    settings = Optimisation(num_examples=24, batch_size=4, optimizer="sgd", learning_rate=0.05, poly_power=0.9)
    image = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = {"image": image, "mask": image[..., 0] // 32}

    def fresh() -> TrainState:
        torch.manual_seed(0)
        return TrainState(task.build(), settings)

    def run(state: TrainState, steps: int) -> None:
        reports = train(task, state.net, state, iter([batch] * 9), settings)
        for _ in range(steps):
            next(reports)

    whole, first, second = fresh(), fresh(), fresh()
    run(whole, 6)
    run(first, 3)
    saved = first.snapshot(Group())
    assert any(name.endswith("momentum_buffer") for name in saved)
    second.restore(saved, where="here")
    second.step = 3
    run(second, 3)
    for one, other in zip(whole.net.parameters(), second.net.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
