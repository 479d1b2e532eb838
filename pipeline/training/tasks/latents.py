"""What the two autoencoders share: their config, and the latents that decoders are trained on."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field, model_validator
from torch import Tensor

from models.draws import Draws
from pipeline.base.errors import ConfigError
from pipeline.base.places import Folder, as_given
from pipeline.storage.files import is_file, is_local
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
    texture_weight: float = Field(0.0, ge=0)
    """Weight of how far images are from the real ones in local texture, the strength of edges over 4 x 4 pixels: what a
    latent cannot say comes out as rough as it was, not blurred. 0 leaves it out."""
    decoder_of: Folder = ""
    """Folder of an image VAE (AutoencoderKL with safetensors, such as `image_vae` of a bundle) whose decoder is trained
    on. Its encoder and latents stay, so that what has learned on these goes on with the new decoder; `widths` and
    `latent_channels` are its own. Empty trains a new VAE."""
    latent_noise: float = Field(0.0, ge=0)
    """Further noise on latents in training, up to this share of their spread: decoders then forgive what diffusion gets
    slightly wrong. The paper uses none."""

    @model_validator(mode="after")
    def _of_images(self) -> VAEConfig:
        if self.net == "annotation" and (self.decoder_of or self.texture_weight or self.edge_weight):
            raise ValueError("decoder_of, texture_weight and edge_weight are of --net image; leave them out for masks")
        return self

    def check_inputs(self) -> None:
        if self.decoder_of and not is_file(f"{self.decoder_of}/config.json"):
            raise ConfigError(
                f"decoder_of: {as_given(self.decoder_of)} holds no config.json; give the folder of an image VAE, such "
                "as image_vae in that of a bundle"
            )
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
