"""AnnotationVAE: a mask of class ids <-> a small latent that diffusion can denoise.

Legend: B masks, K classes without background, n bit planes, C latent channels, H and W pixels, f down-sampling factor.
The classes go in as binary codes and come out as class logits; it is trained with cross-entropy alone, without a KL
term (JoDiffusion, section "Annotation VAE"). Parameter names are those of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.labels import LabelSpace


@dataclass(frozen=True)
class AnnotationVAEConfig:
    """Sizes. The defaults, with VOC's 5 bits and 21 outputs, are the published network's.

    Attributes:
        num_bits: bit planes of the input, n.
        num_outputs: logits per pixel, K + 1.
        encoder_widths: channels of the first convolution and of each stride-2 stage; f = 2 ** (len - 1).
        decoder_width: channels of every decoder stage (the reference's `upscale_channels`).
        latent_channels: C.
        norm_groups: groups of both group norms.
        latent_mean, latent_std: per channel (or one for all); diffusion sees (latent - mean) / std. The published nets
            multiply by 0.2, which is std 5.
        decoder_first_width: channels between the latent and the first stage, where they are others (the reference's
            `intermediate_channels`).
    """

    num_bits: int = 5
    num_outputs: int = 21
    encoder_widths: tuple[int, ...] = (128, 256, 512, 512)
    decoder_width: int = 512
    latent_channels: int = 4
    norm_groups: int = 32
    latent_mean: tuple[float, ...] = (0.0,)
    latent_std: tuple[float, ...] = (5.0,)
    decoder_first_width: int | None = None

    @classmethod
    def for_labels(
        cls, labels: LabelSpace, encoder_widths: tuple[int, ...], decoder_width: int, latent_channels: int
    ) -> AnnotationVAEConfig:
        """Another size for a label space, with latents taken as they are until their statistics are known."""
        return cls(
            num_bits=labels.num_bits,
            num_outputs=labels.num_classes + 1,
            encoder_widths=encoder_widths,
            decoder_width=decoder_width,
            latent_channels=latent_channels,
            norm_groups=math.gcd(32, encoder_widths[-1], decoder_width),
            latent_std=(1.0,),
        )

    @property
    def downsampling(self) -> int:
        """f: pixels per latent cell and side."""
        return 2 ** (len(self.encoder_widths) - 1)


class Gaussian(NamedTuple):
    """Diagonal posterior: `mean` and `std`, both (B, C, H/f, W/f) float."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparametrised draw from standard-normal `noise` of the same shape."""
        return self.mean + self.std * noise


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.permute(0, 2, 3, 1)
        normed = functional.layer_norm(channels_last, self.weight.shape, self.weight, self.bias, eps=1e-6)
        return normed.permute(0, 3, 1, 2)


class AnnotationVAE(nn.Module):
    """Mask of class ids <-> latent (JoDiffusion, section "Annotation VAE")."""

    def __init__(self, config: AnnotationVAEConfig) -> None:
        super().__init__()
        self.config = config
        widths, width = config.encoder_widths, config.decoder_width

        encoder: list[nn.Module] = [nn.Conv2d(config.num_bits, widths[0], 3, padding=1), nn.SiLU()]
        for narrow, wide in pairwise(widths):
            encoder += [
                nn.Conv2d(narrow, wide, 3, padding=1),
                nn.Conv2d(wide, wide, 3, stride=2, padding=1),
                nn.SiLU(),
            ]
        encoder += [
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1),
            nn.Identity(),  # place of the reference's optional middle blocks, kept so that the indices match
            nn.GroupNorm(config.norm_groups, widths[-1], eps=1e-6),
            nn.SiLU(),
            nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1),
        ]
        self.encoder = nn.Sequential(*encoder)

        narrow = config.decoder_first_width or width
        decoder: list[nn.Module] = [nn.Conv2d(config.latent_channels, narrow, 3, padding=1), nn.Identity()]
        for stage, _ in enumerate(widths[1:]):
            inner = narrow if stage == 0 else width
            decoder += [nn.ConvTranspose2d(inner, width, 2, stride=2), ChannelNorm(width), nn.SiLU()]
        decoder += [
            nn.GroupNorm(config.norm_groups, width),
            nn.SiLU(),
            nn.Conv2d(width, config.num_outputs, 3, padding=1),
        ]
        self.decoder = nn.Sequential(*decoder)

    def encode(self, mask: Tensor) -> Gaussian:
        """(B, H, W) integer class ids -> posterior over raw latents (B, C, H/f, W/f)."""
        planes = bit_planes(mask, self.config.num_bits, self.config.num_outputs)
        planes = planes.to(next(self.encoder.parameters()).dtype)
        mean, log_variance = self.encoder(planes).chunk(2, dim=1)
        return Gaussian(mean, torch.exp(0.5 * log_variance.clamp(-30, 20)))

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent (B, C, H/f, W/f) -> class logits (B, K + 1, H, W)."""
        return self.decoder(latent)

    def forward(self, mask: Tensor, choose: Callable[[Gaussian], Tensor] = lambda posterior: posterior.mean) -> Tensor:
        """Class ids (B, H, W) -> logits (B, K + 1, H, W), through the latent that `choose` takes from the posterior."""
        return self.decode(choose(self.encode(mask)))

    def normalize(self, latent: Tensor) -> Tensor:
        """Raw latent -> what diffusion sees."""
        mean, std = self._statistics(latent)
        return (latent - mean) / std

    def denormalize(self, latent: Tensor) -> Tensor:
        """What diffusion sees -> raw latent."""
        mean, std = self._statistics(latent)
        return latent * std + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (per_channel(values, like.device) for values in (self.config.latent_mean, self.config.latent_std))
        return mean.to(like.dtype), std.to(like.dtype)


def bit_planes(mask: Tensor, num_bits: int, num_outputs: int) -> Tensor:
    """Class ids as binary codes (reference code, `LabelVAE` input).

    Args:
        mask: (B, H, W) integer class ids. Ids beyond the classes, the ignore index among them, are "unknown".
        num_bits: n.
        num_outputs: K + 1; ids from here on are no classes, even where the code has room for them.

    Returns:
        (B, n, H, W) float32: least significant bit first, +1 or -1; background and unknown pixels are 0 in all planes.
    """
    ids = mask.long().unsqueeze(1)
    shifts = torch.arange(num_bits, device=mask.device).view(1, -1, 1, 1)
    planes = ((ids >> shifts) & 1).float() * 2 - 1
    known = (ids > 0) & (ids < num_outputs)
    return planes * known


def per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """One value or one per channel -> (1, C, 1, 1) float32 on a device, filled there: a copy from the host would wait
    for what runs there."""
    return torch.cat([torch.full((1, 1, 1, 1), value, device=device) for value in values], dim=1)
