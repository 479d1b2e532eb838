"""The loop without Ray: it learns, waits for nothing, and stops before it does harm."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module

import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from models.labels import GARMENTS
from pipeline.training.loop import TrainingError, train
from pipeline.training.parallel import Group, recompute_activations
from pipeline.training.state import TrainState
from pipeline.training.tasks.annotation_vae import AnnotationTask
from pipeline.training.tasks.clip import ClipTask
from pipeline.training.tasks.image_vae import ImageTask
from pipeline.training.tasks.segmenter import SegmenterTask
from tests.pipeline.training.fabricated import (
    BATCH,
    SHAPES,
    TASK,
    Doubling,
    doubling_batches,
    doubling_recipe,
    doubling_state,
    latent_recipe,
    means_of,
    run_doubling,
)
from tests.pipeline.training.tasks.fabricated import text_config, vae_config

PICTURES = {
    "image": torch.zeros(BATCH, 32, 32, 3, dtype=torch.uint8),
    "mask": torch.ones(BATCH, 32, 32, dtype=torch.uint8),
}
LATENTS = {name: torch.zeros(BATCH, *shape) for name, shape in SHAPES.items()}
META = Group(device=torch.device("meta"))
"""Stands for a GPU: its tensors have no values to read, and sums and choices refuse those of other devices."""


def test_it_learns():
    class Linear(Doubling):
        def build(self):
            return nn.Linear(1, 1)

    settings = doubling_recipe(num_examples=6400, ema_decay=0.95)
    torch.manual_seed(0)
    net = Linear().build()
    state = TrainState(net, settings)
    reports = list(train(Linear(), net, state, doubling_batches(), settings))
    assert len(reports) == settings.num_steps == 400
    assert net.weight.item() == pytest.approx(2, abs=0.02)
    assert state.average.get_parameter("weight").item() == pytest.approx(2, abs=0.02)


def test_a_compiled_network_trains_alike_and_its_checkpoints_serve_others():
    settings = doubling_recipe(num_examples=80)
    plain, compiled = doubling_state(settings), doubling_state(settings)
    compiled.net.compile(backend="eager")  # its graphs without code made of them, which takes a compiler
    expected, found = ([means_of(report) for report in run_doubling(state, settings)] for state in (plain, compiled))

    assert found == expected
    assert compiled.snapshot(Group()).keys() == plain.snapshot(Group()).keys()


def test_accumulation_gives_the_same_gradient():
    class WithoutNoise(Doubling):
        def build(self):
            return nn.Linear(1, 1)

        def loss(self, net, batch, draws):
            return (net(batch["x"]) - 2 * batch["x"]).pow(2).mean(), {}

    results = []
    for accumulation in (1, 3, 100):  # more parts than rows are as many as rows
        settings = doubling_recipe(accumulation=accumulation, num_examples=160)
        torch.manual_seed(0)
        net = WithoutNoise().build()
        state = TrainState(net, settings)
        list(train(WithoutNoise(), net, state, doubling_batches(), settings))
        results.append(net.weight.item())
    assert results == pytest.approx([results[0]] * 3, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    settings = doubling_recipe()
    state = doubling_state(settings)
    before = {name: value.clone() for name, value in state.net.named_parameters()}
    poisoned = iter([{"x": torch.full((16, 1), torch.nan)}])
    with pytest.raises(TrainingError, match="step 0.*not finite"):
        next(train(Doubling(), state.net, state, poisoned, settings))
    assert state.step == 0
    for name, value in state.net.named_parameters():
        assert torch.equal(value, before[name])


@pytest.fixture
def meta_trains(monkeypatch):
    """Takes away what is only a check whether a device is known."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(import_module("torch.optim.adam"), "_device_dtype_check_for_fused", lambda *_: None)


def train_on_meta(task, batch, **changes) -> int:
    settings = latent_recipe(num_examples=3 * BATCH, **changes)
    with torch.device("meta"):
        net = task.build()
    state = TrainState(net, settings, META)
    recompute_activations(net)
    reports = list(train(task, net, state, iter([batch] * 3), settings, group=META))
    assert all(value.is_meta for report in reports for value in report.losses.values())
    return len(reports)


@pytest.mark.parametrize(
    "task, batch",
    [
        (TASK, LATENTS),
        (AnnotationTask(GARMENTS, vae_config("annotation")), PICTURES),
        (ImageTask(vae_config("image")), PICTURES),
        (SegmenterTask(GARMENTS, "unet_small", 4), PICTURES),
    ],
    ids=["joint", "annotation VAE", "image VAE", "segmenter"],
)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_waits_for_nothing(meta_trains, task, batch, accumulation):
    """A value read back from the device would have it wait for all that was asked for before."""
    assert train_on_meta(task, batch, accumulation=accumulation) == 3


def test_a_step_of_muon_waits_for_nothing(meta_trains):
    assert train_on_meta(TASK, LATENTS, optimizer="muon") == 3


def test_a_step_of_a_clip_waits_for_nothing(meta_trains, tmp_path):
    CLIPTokenizer().train_new_from_iterator([["a red bag"]], 600, show_progress=False).save_pretrained(tmp_path)
    ids = torch.ones(BATCH, 24, dtype=torch.int64)
    assert train_on_meta(ClipTask(text_config(), str(tmp_path)), {"token_ids": ids, "image": PICTURES["image"]}) == 3
