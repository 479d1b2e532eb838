"""What a training remembers is saved whole, and gone on with exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from pipeline.base.errors import DataError
from pipeline.training.loop import train
from pipeline.training.parallel import Group
from pipeline.training.state import TrainState
from tests.pipeline.training.fabricated import (
    Doubling,
    doubling_batches,
    doubling_recipe,
    doubling_state,
    means_of,
    run_doubling,
)


def test_stopped_and_resumed_equals_never_stopped():
    settings = doubling_recipe(warmup_examples=64, decay_share=0.5)
    whole = doubling_state(settings)
    expected = [means_of(report) for report in run_doubling(whole, settings)]

    first = doubling_state(settings)
    found = [means_of(report) for report in itertools.islice(run_doubling(first, settings), 17)]
    saved = first.snapshot(Group())
    second = doubling_state(settings)
    second.restore(saved, where="here")
    second.step = 17
    found += [means_of(report) for report in run_doubling(second, settings)]

    assert found == expected
    for mine, theirs in ((second.net, whole.net), (second.average, whole.average)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_states_of_eight_bits_are_saved_and_gone_on_with():
    pytest.importorskip("torchao", reason="pip install 'jodiffusion[int8]'; not among the tools, since it is noisy")

    class Wide(Doubling):
        def build(self):
            return nn.Sequential(nn.Linear(1, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))

    def fresh():
        torch.manual_seed(0)
        return TrainState(Wide().build(), settings)

    def losses_of(state, steps):
        reports = train(Wide(), state.net, state, doubling_batches(state.step), settings)
        return [means_of(report)["loss"] for report in itertools.islice(reports, steps)]

    settings = doubling_recipe(optimizer="adamw8bit")
    whole = losses_of(fresh(), 20)
    first = fresh()
    losses_of(first, 10)
    saved = first.snapshot(Group())
    second = fresh()
    second.restore(saved, where="here")
    second.step = 10

    assert {value.dtype for value in saved.values()} == {torch.float32}
    # Their codes have no -1, so that blocks whose largest number is negative are rounded once more.
    assert losses_of(second, 10) == pytest.approx(whole[10:], rel=0.05)
    assert whole[-1] < whole[0]


def test_a_checkpoint_of_another_network_is_refused():
    saved = {**doubling_state(doubling_recipe()).snapshot(Group()), "net.0.weight": torch.zeros(2, 2)}
    with pytest.raises(DataError, match=r"net.0.weight is \(2, 2\), the network has \(8, 1\).*another --run"):
        doubling_state(doubling_recipe()).restore(saved, where="here")


def test_a_checkpoint_that_lacks_a_tensor_is_refused():
    saved = doubling_state(doubling_recipe()).snapshot(Group())
    del saved["average.3.bias"]
    with pytest.raises(DataError, match=r"here: average.3.bias is missing, the network has \(1,\)"):
        doubling_state(doubling_recipe()).restore(saved, where="here")


def test_a_snapshot_is_a_copy_that_training_on_does_not_change():
    settings = doubling_recipe()
    state = doubling_state(settings)
    reports = run_doubling(state, settings)
    next(reports)
    saved = state.snapshot(Group())
    kept = {name: value.clone() for name, value in saved.items()}
    next(reports)
    assert all(torch.equal(saved[name], value) for name, value in kept.items())
    assert {name.partition(".")[0] for name in saved} == {"net", "average", "optimizer"}


def test_averages_follow_the_weights_soon_at_first_and_slowly_later():
    state = doubling_state(doubling_recipe())
    weight, mean = state.net.get_parameter("0.weight"), state.average.get_parameter("0.weight")
    with torch.no_grad():
        mean.zero_()
        weight.fill_(1)
    state.update_average(0.9)
    assert mean[0].item() == pytest.approx(1 - 1 / 10), "at the first step"
    state.step = 10**6
    mean.zero_()
    state.update_average(0.9)
    assert mean[0].item() == pytest.approx(0.1) and not mean.requires_grad
    state.net.get_buffer("2.running_mean").fill_(5)
    state.update_average(0.9)
    assert (state.average.get_buffer("2.running_mean") == 5).all(), "counts are taken as they are"
