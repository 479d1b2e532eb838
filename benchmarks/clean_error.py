"""How far the clean value that a network's prediction amounts to is from the true one: one measure for all objectives.

Legend: B pairs.
"""

from __future__ import annotations

import torch

from models.diffusion import NUM_TIMES, Diffusion
from models.jodiffusion import JoDiffusion, Joint
from pipeline.training.task import Tensors

NOISE_LEVELS = (0.3, 0.5, 0.7, 0.9)
"""Strength of the noise as a share of signal and noise together."""


@torch.no_grad()
def clean_errors(net: JoDiffusion, diffusion: Diffusion, rows: Tensors) -> dict[str, float]:
    """Mean squared errors of the clean image and mask that the predictions amount to, with the text, over noise levels
    of equal signal-to-noise ratio: comparable between objectives."""
    clean = Joint(rows["image_latent"].float(), rows["image_embedding"].float(), rows["mask_latent"].float())
    text = rows["text_embedding"].float()
    noise = Joint(*(torch.randn(part.shape, generator=torch.Generator().manual_seed(0)) for part in clean))
    sums = {"image": 0.0, "mask": 0.0}
    for level in NOISE_LEVELS:
        times = torch.full((len(text),), time_at(diffusion, level))
        noisy = Joint(*(diffusion.noised(*both, times) for both in zip(clean, noise, strict=True)))
        with torch.autocast("cpu", torch.bfloat16):
            predicted, _ = net(noisy, text, times, torch.zeros(len(text)))
        for name in sums:
            found = diffusion.clean(getattr(noisy, name), getattr(predicted, name).float(), times)
            sums[name] += (found - getattr(clean, name)).square().mean().item() / len(NOISE_LEVELS)
    return sums


def time_at(diffusion: Diffusion, level: float) -> float:
    """The time at which the noise is `level` / (1 - `level`) times as strong as the signal."""
    times = torch.arange(1.0, NUM_TIMES)
    signal, noise = diffusion.signal_and_noise(times)
    return times[(noise / (signal + noise) - level).abs().argmin()].item()
