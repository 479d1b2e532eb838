"""What the two autoencoders share: their config, and the latents that decoders are trained on."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field
from torch import Tensor

from models.draws import Draws
from pipeline.storage.files import is_local
from pipeline.tables.label_space import common_labels
from pipeline.training.config import TrainingConfig

NUM_SHOWN = 8


class VAEConfig(TrainingConfig):
    """Trains one of the two autoencoders on pairs."""

    net: Literal["annotation", "image"]
    """Which autoencoder: "annotation" for masks, "image" for images."""
    size_px: int = Field(0, ge=0)
    """Side at which the middle of every picture is taken; 0 takes them as they are, all of one size."""
    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels per resolution; the latent is 2 ** (number - 1) times smaller than the picture."""
    latent_channels: int = Field(4, ge=1)
    """Channels of the latent."""
    decoder_width: int = Field(512, ge=4)
    """Channels of the annotation VAE's decoder."""
    sample_posterior: bool = True
    """Decode a draw from the posterior in training, as the paper does for masks, rather than its mean."""
    edge_weight: float = Field(0.0, ge=0)
    """Weight of the absolute error of the Laplacian in the loss of images: edges come out sharper. 0 leaves it out."""
    latent_noise: float = Field(0.0, ge=0)
    """Further noise on latents in training, up to this share of their spread: decoders then forgive what diffusion gets
    slightly wrong. The paper uses none."""

    def check_inputs(self) -> None:
        super().check_inputs()
        folders = [*self.train, self.validation]
        if self.net == "annotation" and all(map(is_local, folders)):
            common_labels(folders)


class Posterior(Protocol):
    """What both autoencoders make of a picture: (B, C, h, w) each."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def std(self) -> Tensor: ...


def chosen_latent(posterior: Posterior, config: VAEConfig, draws: Draws) -> Tensor:
    """The latent that training decodes: mean or draw, and noise of a strength drawn for each row between 0 and
    `latent_noise` times the batch's spread per channel."""
    latent = posterior.mean

    def normal() -> Tensor:
        return draws.normal(latent.shape[1:]).to(latent)

    if config.sample_posterior:
        latent = latent + posterior.std * normal()
    if config.latent_noise:
        spread = posterior.mean.detach().std(dim=(0, 2, 3), keepdim=True)
        strength = config.latent_noise * draws.uniform((1, 1, 1))
        latent = latent + strength * spread * normal()
    return latent


def latent_statistics(latent: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (B, C, h, w)."""
    values = latent.float().transpose(0, 1).flatten(1)
    return tuple(values.mean(1).tolist()), tuple(values.std(1).tolist())
