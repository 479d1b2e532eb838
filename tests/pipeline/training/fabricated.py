"""Small trainings without Ray: of a function that doubles, and of a tiny joint network on random latents."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import torch
from torch import nn

from models.diffusion import Diffusion, LossWeights
from models.jodiffusion import JoDiffusionConfig
from pipeline.training.loop import train
from pipeline.training.optimisation import Optimisation
from pipeline.training.state import TrainState
from pipeline.training.task import Evaluation
from pipeline.training.tasks.joint import JointTask

STEPS, BATCH = 50, 8
NET = JoDiffusionConfig(
    latent_size=4,
    num_heads=2,
    head_width=8,
    num_layers=2,
    num_text_tokens=6,
    text_width=16,
    text_bottleneck=8,
    clip_image_width=8,
)
SHAPES = {"image_latent": (4, 4, 4), "mask_latent": (4, 4, 4), "image_embedding": (1, 8), "text_embedding": (6, 16)}
TASK = JointTask(SimpleNamespace(net=NET, diffusion=Diffusion(), loss_weights=LossWeights()), "", "", SHAPES)  # type: ignore[arg-type]


def latent_batches(rows: range, start: int = 0):
    for step in range(start, STEPS):
        generator = torch.Generator().manual_seed(step)
        whole = {name: torch.randn(BATCH, *shape, generator=generator) for name, shape in SHAPES.items()}
        yield {name: value[list(rows)] for name, value in whole.items()}


def latent_recipe(**changes) -> Optimisation:
    return Optimisation(
        **{"num_examples": STEPS * BATCH, "batch_size": BATCH, "precision": "float32", "ema_decay": 0.9, **changes}
    )


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


def doubling_recipe(**changes) -> Optimisation:
    return Optimisation(
        **{"num_examples": 640, "batch_size": 16, "learning_rate": 1e-2, "precision": "float32", **changes}
    )


def doubling_batches(start: int = 0):
    for step in itertools.count(start):
        yield {"x": torch.randn(16, 1, generator=torch.Generator().manual_seed(step))}


def doubling_state(settings: Optimisation) -> TrainState:
    torch.manual_seed(0)
    return TrainState(Doubling().build(), settings)


def run_doubling(state: TrainState, settings: Optimisation, **options):
    return train(Doubling(), state.net, state, doubling_batches(state.step), settings, **options)


def means_of(report):
    return {name: (total / count).item() for name, (total, count) in report.losses.items()}
