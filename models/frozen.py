"""The encoders around the joint network, frozen while it trains: text, CLIP image, image VAE.

Legend: B pictures or prompts, T text tokens, E text width, V CLIP image width, C latent channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as functional
from torch import Tensor, nn

from models.annotation_vae import per_channel

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPVisionModelWithProjection, PreTrainedTokenizerBase

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class TextEncoder(nn.Module):
    """Prompts -> the last hidden state of CLIP's text tower."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: CLIPTextModel) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.model = model

    @property
    def num_tokens(self) -> int:
        """T: every prompt is padded to it."""
        return int(self.model.config.max_position_embeddings)

    @property
    def width(self) -> int:
        """E."""
        return int(self.model.config.hidden_size)

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt with start and end; more than `num_tokens` would be cut off."""
        return [len(ids) for ids in self.tokenizer(list(prompts))["input_ids"]] if prompts else []

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """(B, T) int64, padded, over-long prompts cut."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.num_tokens, truncation=True, return_tensors="pt"
        )
        return tokens["input_ids"]

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> (B, T, E) float, in the dtype of the weights."""
        return self.model(self.token_ids(prompts).to(self.model.device)).last_hidden_state


def clip_image_embedding(model: CLIPVisionModelWithProjection, image: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1] -> (B, 1, V), the projection of CLIP's vision tower."""
    return model(clip_pixels(image, model.config.image_size).to(model.dtype)).image_embeds.unsqueeze(1)


def clip_pixels(image: Tensor, size_px: int) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1] -> (B, 3, size, size) as CLIP wants it: resized, and normalised per channel."""
    pixels = (image + 1) / 2
    if image.shape[-2:] != (size_px, size_px):
        pixels = functional.interpolate(pixels, (size_px, size_px), mode="bicubic", antialias=True).clamp(0, 1)
    return (pixels - per_channel(CLIP_MEAN, image.device)) / per_channel(CLIP_STD, image.device)


def image_to_latent(vae: AutoencoderKL, image: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1] -> (B, C, H/f, W/f) normalised latent, the posterior's mean."""
    mean, std = _latent_statistics(vae, image)
    return (vae.encode(image.to(vae.dtype)).latent_dist.mean - mean) / std


def latent_to_image(vae: AutoencoderKL, latent: Tensor) -> Tensor:
    """(B, C, h, w) normalised latent -> (B, 3, H, W) float in [-1, 1]."""
    mean, std = _latent_statistics(vae, latent)
    return vae.decode((latent * std + mean).to(vae.dtype)).sample.clamp(-1, 1)


def _latent_statistics(vae: AutoencoderKL, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of raw latents: per channel where known, else Stable Diffusion's one factor."""
    config = vae.config
    if config.latents_mean is not None and config.latents_std is not None:
        mean, std = list(config.latents_mean), list(config.latents_std)
    else:
        mean, std = [0.0], [1 / config.scaling_factor]
    return per_channel(mean, like.device), per_channel(std, like.device)
