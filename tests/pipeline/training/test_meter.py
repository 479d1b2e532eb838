"""The meter prints means over all rows since the last line, and meets the others when they agreed to."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from pipeline.base.log import log
from pipeline.runs import history
from pipeline.training import meter as module
from pipeline.training.loop import Report
from pipeline.training.meter import Meter
from pipeline.training.notice import Notice, ask_to_stop
from pipeline.training.optimisation import Optimisation
from pipeline.training.parallel import Group

RECIPE = Optimisation(num_examples=400, batch_size=4)


@pytest.fixture
def clock(monkeypatch):
    """Time goes on only where a test says so."""
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now.s)
    return now


@pytest.fixture
def run(tmp_path, monkeypatch, clock):
    """Its `sent` is what MLflow got, and `said` what a user sees."""
    run = SimpleNamespace(folder=tmp_path, sent=[], said=[])
    run.tracker = SimpleNamespace(metrics=lambda values, examples: run.sent.append((examples, values)))
    monkeypatch.setattr(log, "info", lambda text, *values: run.said.append(text % values))
    monkeypatch.setattr(module, "drained", lambda: Notice.NONE)
    return run


def report(step: int, loss: float = 1.0, rows: int = 4, **parts: float) -> Report:
    """A step of `rows` rows whose mean loss was `loss`; a part that is NaN has no rows."""
    losses = {"loss": torch.tensor([loss * rows, rows])}
    for name, value in parts.items():
        losses[name] = torch.tensor([0.0, 0.0] if math.isnan(value) else [value, 1.0])
    return Report(step, 4 * step, losses, torch.tensor(2.0), 1e-3, waited_s=0.25)


def test_a_line_has_the_means_over_rows_since_the_last_one(run, clock):
    meter = Meter(RECIPE, run, Group(), every_s=10, step=0)
    meter.meeting = 3
    for step, (loss, rows) in enumerate([(1.0, 1), (2.0, 3), (4.0, 4)], start=1):
        clock.s += 4
        meter(report(step, loss, rows, rare=7.0 if step == 2 else math.nan, never=math.nan))

    ((examples, sent),) = run.sent
    assert examples == 12 and sent["train/loss"] == pytest.approx((1 + 6 + 16) / 8)
    assert sent["train/rare"] == 7 and "train/never" not in sent, "of the rows that have it"
    assert sent["train/gradient_norm"] == 2 and sent["train/learning_rate"] == 1e-3
    assert sent["train/examples_per_s"] == pytest.approx(3 * 4 / 12)
    assert sent["train/data_wait_share"] == pytest.approx(3 * 0.25 / 12) and sent["train/memory_gib"] > 0
    assert run.said == [f"{run.folder.name}:   3 %  12 of 400 examples  1/s  6:28 left  loss 2.8750  rare 7.0000"]
    (point,) = history.read(run.folder)
    assert point["examples"] == 12 and point["loss"] == sent["train/loss"]

    clock.s += 40
    meter.meeting = 4
    meter(report(4, 10.0))
    assert run.sent[1][1]["train/loss"] == 10, "of the steps since then alone"


def test_workers_meet_about_once_a_second_and_at_the_end(run, clock):
    meter = Meter(RECIPE, run, Group(), every_s=1e9, step=0)
    met = []
    for step in range(1, 101):
        clock.s += 0.1
        meter(report(step))
        if meter.met:
            met.append(step)
    assert met == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
    assert [examples for examples, _ in run.sent] == [400], "the last step is always told"


def test_the_word_to_stop_is_heard_at_the_next_meeting(run, clock):
    meter = Meter(RECIPE, run, Group(), every_s=1e9, step=0)
    clock.s += 0.5
    assert meter(report(1)) is Notice.NONE and meter.met
    ask_to_stop(str(run.folder))
    clock.s += 0.5
    assert meter(report(2)) is Notice.NONE and not meter.met
    clock.s += 0.5
    assert meter(report(3)) is Notice.STOP and meter.met


def test_the_cluster_is_asked_now_and_then_whether_a_machine_goes(run, clock, monkeypatch):
    monkeypatch.setattr(module, "drained", lambda: Notice.DRAIN)
    meter = Meter(RECIPE, run, Group(), every_s=1e9, step=0)
    notices = []
    for step in range(1, 11):
        clock.s += 2
        notices.append(meter(report(step)))
    assert notices == ([Notice.NONE] * (module.MEETINGS_A_QUESTION - 1) + [Notice.DRAIN]) * 2


def test_a_training_that_goes_on_counts_from_where_it_stopped(run, clock):
    meter = Meter(RECIPE, run, Group(), every_s=10, step=50)
    clock.s += 20
    meter(report(51))
    assert run.sent[0][1]["train/examples_per_s"] == pytest.approx(4 / 20)
