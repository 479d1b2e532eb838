"""What decoders are trained on: the mean, a draw, or noise that is bounded by the spread of the latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.draws import Draws
from pipeline.training.tasks.latents import chosen_latent, latent_statistics
from tests.pipeline.training.tasks.fabricated import vae_config

NUM = 64
DRAWS = (0, 0, range(NUM))


class Known(NamedTuple):
    mean: Tensor
    std: Tensor


def posterior(std: float = 0.5) -> Known:
    """Of two channels, the second ten times as wide as the first."""
    mean = torch.randn(NUM, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10]).view(2, 1, 1)
    return Known(mean, torch.full_like(mean, std))


def config(**changes):
    return vae_config("image").model_copy(update={"latent_noise": 0.0, "sample_posterior": False, **changes})


def test_the_mean_is_decoded_where_nothing_else_is_asked_for():
    one = posterior()
    assert torch.equal(chosen_latent(one, config(), Draws(*DRAWS)), one.mean)


def test_a_draw_has_the_posteriors_spread_and_repeats_with_its_seed():
    one = posterior(std=0.5)
    found = chosen_latent(one, config(sample_posterior=True), Draws(*DRAWS))
    torch.testing.assert_close((found - one.mean).std(), torch.tensor(0.5), atol=0.03, rtol=0)
    assert torch.equal(found, chosen_latent(one, config(sample_posterior=True), Draws(*DRAWS)))
    assert not torch.equal(found, chosen_latent(one, config(sample_posterior=True), Draws(1, 0, range(NUM))))


def test_noise_is_a_share_of_each_channels_spread_and_of_another_strength_for_each_row():
    one = posterior()
    noise = chosen_latent(one, config(latent_noise=0.2), Draws(*DRAWS)) - one.mean
    first, second = (noise[:, channel] / one.mean[:, channel].std() for channel in range(2))
    strengths = torch.cat([first, second], dim=1).flatten(1).std(1)
    assert strengths.max() < 0.2 * 1.5 and strengths.min() < 0.05 and strengths.mean() > 0.05
    torch.testing.assert_close(first.std(), second.std(), atol=0.02, rtol=0)


def test_statistics_are_those_of_each_channel():
    latent = torch.stack([torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 5.0]])])[None].repeat(2, 1, 1, 1)
    mean, std = latent_statistics(latent)
    assert mean == (2, 5) and std[1] == 0
    torch.testing.assert_close(torch.tensor(std[0]), torch.tensor([1.0, 3, 1, 3]).std())
