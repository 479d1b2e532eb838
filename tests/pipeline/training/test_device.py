"""A step never reads a value back from the device, which would have it wait for all that was asked for before, and
mixes no devices. Meta tensors stand for a GPU's: they have no values to read, and sums and choices refuse others."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module

import pytest
import torch
from transformers import CLIPTokenizer

from models.labels import GARMENTS
from pipeline.training.loop import train
from pipeline.training.parallel import Group, recompute_activations
from pipeline.training.state import TrainState
from pipeline.training.tasks.annotation_vae import AnnotationTask
from pipeline.training.tasks.clip import ClipTask
from pipeline.training.tasks.image_vae import ImageTask
from pipeline.training.tasks.segmenter import SegmenterTask
from tests.pipeline.training.test_parallel import BATCH, SHAPES, TASK, recipe
from tests.pipeline.training.test_tasks import text_config, vae_config

PICTURES = {
    "image": torch.zeros(BATCH, 32, 32, 3, dtype=torch.uint8),
    "mask": torch.ones(BATCH, 32, 32, dtype=torch.uint8),
}
LATENTS = {name: torch.zeros(BATCH, *shape) for name, shape in SHAPES.items()}
META = Group(device=torch.device("meta"))


@pytest.fixture
def meta_trains(monkeypatch):
    """Takes away what is only a check whether a device is known."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(import_module("torch.optim.adam"), "_device_dtype_check_for_fused", lambda *_: None)


def train_on_meta(task, batch, **changes) -> int:
    settings = recipe(num_examples=3 * BATCH, **changes)
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
    assert train_on_meta(task, batch, accumulation=accumulation) == 3


def test_a_step_of_a_clip_waits_for_nothing(meta_trains, tmp_path):
    CLIPTokenizer().train_new_from_iterator([["a red bag"]], 600, show_progress=False).save_pretrained(tmp_path)
    ids = torch.ones(BATCH, 24, dtype=torch.int64)
    assert train_on_meta(ClipTask(text_config(), str(tmp_path)), {"token_ids": ids, "image": PICTURES["image"]}) == 3
