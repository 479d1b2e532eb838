"""A short training in the loop without Ray, and configs of small networks."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.training.feed import to_tensors
from pipeline.training.loop import train
from pipeline.training.optimisation import Optimisation
from pipeline.training.state import TrainState
from pipeline.training.tasks.clip import ClipConfig
from pipeline.training.tasks.latents import VAEConfig


def recipe(steps: int = 20) -> Optimisation:
    return Optimisation(num_examples=8 * steps, batch_size=8, learning_rate=3e-3, ema_decay=0.5)


def learn(task, rows, tmp_path):
    settings = recipe()
    data = to_tensors(task.decode({name: rows[name] for name in task.columns}))
    torch.manual_seed(0)
    net = task.build()
    state = TrainState(net, settings)

    def batches():
        while True:
            yield {name: values[:8] for name, values in data.items()}

    reports = list(train(task, net, state, batches(), settings))
    with torch.no_grad():
        evaluation = task.evaluate(state.average, data)
        task.save(state.average, data, tmp_path)
    assert reports[-1].losses["loss"][0] < reports[0].losses["loss"][0]
    return evaluation


def vae_config(net: str, **changes: Any) -> VAEConfig:
    return VAEConfig.model_validate(
        {
            "run": "a",
            "net": net,
            "train": ["b"],
            "validation": "c",
            "widths": [8, 16],
            "decoder_width": 16,
            "latent_noise": 0.1,
            "optimisation": recipe(),
            **changes,
        }
    )


def text_config() -> ClipConfig:
    return ClipConfig.model_validate(
        {
            "run": "a",
            "train": ["b"],
            "validation": "c",
            "width": 16,
            "image_width": 32,
            "image_size_px": 32,
            "projection": 8,
            "optimisation": recipe(),
        }
    )
