"""The loop without Ray: it learns, goes on exactly after a stop, and stops before it does harm."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from pipeline.base.errors import DataError
from pipeline.training.loop import TrainingError, train
from pipeline.training.optimisation import Optimisation, optimizers
from pipeline.training.parallel import Group
from pipeline.training.state import TrainState
from pipeline.training.task import Evaluation


class Doubling:
    """Learns y = 2 x, with noise from the step's draws so that randomness is exercised."""

    columns = ("x",)
    judged_by = ("error", 1)

    def decode(self, batch):
        return batch

    def build(self):
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def loss(self, net, batch, draws):
        error = (net(batch["x"] + 0.01 * draws.normal((1,))) - 2 * batch["x"]).pow(2).mean(1)
        return error.mean(), {"error": error}

    def evaluate(self, net, held_out):
        return Evaluation({}, {})

    def save(self, net, examples, folder):
        pass


def recipe(**changes) -> Optimisation:
    return Optimisation(
        **{"num_examples": 640, "batch_size": 16, "learning_rate": 1e-2, "precision": "float32", **changes}
    )


def batches(start: int = 0):
    for step in itertools.count(start):
        yield {"x": torch.randn(16, 1, generator=torch.Generator().manual_seed(step))}


def fresh(settings: Optimisation) -> TrainState:
    torch.manual_seed(0)
    return TrainState(Doubling().build(), settings)


def run(state: TrainState, settings: Optimisation, **options):
    return train(Doubling(), state.net, state, batches(state.step), settings, **options)


def test_it_learns():
    class Linear(Doubling):
        def build(self):
            return nn.Linear(1, 1)

    settings = recipe(num_examples=6400, ema_decay=0.95)
    torch.manual_seed(0)
    net = Linear().build()
    state = TrainState(net, settings)
    reports = list(train(Linear(), net, state, batches(), settings))
    assert len(reports) == settings.num_steps == 400
    assert net.weight.item() == pytest.approx(2, abs=0.02)
    assert state.average.get_parameter("weight").item() == pytest.approx(2, abs=0.02)


def losses(report):
    return {name: (total / count).item() for name, (total, count) in report.losses.items()}


def test_stopped_and_resumed_equals_never_stopped():
    settings = recipe(warmup_examples=64, decay_share=0.5)
    whole = fresh(settings)
    expected = [losses(report) for report in run(whole, settings)]

    first = fresh(settings)
    found = [losses(report) for report in itertools.islice(run(first, settings), 17)]
    saved = first.snapshot(Group())
    second = fresh(settings)
    second.restore(saved, where="here")
    second.step = 17
    found += [losses(report) for report in run(second, settings)]

    assert found == expected
    for mine, theirs in ((second.net, whole.net), (second.average, whole.average)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_a_compiled_network_trains_alike_and_its_checkpoints_serve_others():
    settings = recipe(num_examples=80)
    plain, compiled = fresh(settings), fresh(settings)
    compiled.net.compile(backend="eager")  # its graphs without code made of them, which takes a compiler
    expected, found = ([losses(report) for report in run(state, settings)] for state in (plain, compiled))

    assert found == expected
    assert compiled.snapshot(Group()).keys() == plain.snapshot(Group()).keys()


def test_states_of_eight_bits_are_saved_and_gone_on_with():
    pytest.importorskip("torchao", reason="pip install 'jodiffusion[int8]'; not among the tools, since it is noisy")

    class Wide(Doubling):
        def build(self):
            return nn.Sequential(nn.Linear(1, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))

    def fresh():
        torch.manual_seed(0)
        return TrainState(Wide().build(), settings)

    def losses_of(state, steps):
        reports = train(Wide(), state.net, state, batches(state.step), settings)
        return [losses(report)["loss"] for report in itertools.islice(reports, steps)]

    settings = recipe(optimizer="adamw8bit")
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
    saved = {**fresh(recipe()).snapshot(Group()), "net.0.weight": torch.zeros(2, 2)}
    with pytest.raises(DataError, match=r"net.0.weight is \(2, 2\), the network has \(8, 1\).*another --run"):
        fresh(recipe()).restore(saved, where="here")


def test_accumulation_gives_the_same_gradient():
    class WithoutNoise(Doubling):
        def build(self):
            return nn.Linear(1, 1)

        def loss(self, net, batch, draws):
            return (net(batch["x"]) - 2 * batch["x"]).pow(2).mean(), {}

    results = []
    for accumulation in (1, 3, 100):  # more parts than rows are as many as rows
        settings = recipe(accumulation=accumulation, num_examples=160)
        torch.manual_seed(0)
        net = WithoutNoise().build()
        state = TrainState(net, settings)
        list(train(WithoutNoise(), net, state, batches(), settings))
        results.append(net.weight.item())
    assert results == pytest.approx([results[0]] * 3, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    settings = recipe()
    state = fresh(settings)
    before = {name: value.clone() for name, value in state.net.named_parameters()}
    poisoned = iter([{"x": torch.full((16, 1), torch.nan)}])
    with pytest.raises(TrainingError, match="step 0.*not finite"):
        next(train(Doubling(), state.net, state, poisoned, settings))
    assert state.step == 0
    for name, value in state.net.named_parameters():
        assert torch.equal(value, before[name])


def test_rate_rises_stays_and_falls():
    settings = recipe(num_examples=1600, warmup_examples=160, decay_share=0.5)
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
    adamw, muon = optimizers(net, recipe(optimizer="muon"))
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(net.block.weight)]
    assert len(adamw.param_groups[0]["params"]) == 3
