"""JoDiffusion: one transformer that denoises an image latent and its mask latent together, given text.

Legend: B pairs, T text tokens, E text width, V CLIP image width, C latent channels, S latent side, P patch side,
D width. Tokens in order: image time, text time, mask time where it has its own, data type, T text, 1 CLIP image,
(S/P)^2 image patches, (S/P)^2 mask patches. Parameter names are those of the published weights ("label" there is the
mask).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.uvit import UViT, compute


@dataclass(frozen=True)
class JoDiffusionConfig:
    """Sizes. The defaults are the published network: 954,258,336 parameters with the never-used `pos_embed.proj`.

    Attributes:
        latent_size: S, cells per side of both latents.
        image_channels, mask_channels: C of the two latents.
        patch_size: P, cells per side of one token.
        num_heads, head_width: D is their product.
        num_layers: transformer blocks besides the middle one; even.
        num_text_tokens, text_width: T and E.
        text_bottleneck: the width that text is squeezed through on its way in and out.
        clip_image_width: V.
        text_prediction_width: width of the text's prediction where it is not E; 0: E. UniDiffuser predicts the input of
            its captioner, which may be another.
        pre_norm: norm before attention and feed-forward instead of after the residual (the paper norms after).
        shared_positions: start from sine-cosine positions that image and mask patches share, plus one offset each,
            instead of independent random ones. Only the initial values differ.
        mask_time: one token more, for the mask's own time; belongs to `Diffusion.mask_time` "independent".
    """

    latent_size: int = 64
    image_channels: int = 4
    mask_channels: int = 4
    patch_size: int = 2
    num_heads: int = 24
    head_width: int = 64
    num_layers: int = 30
    num_text_tokens: int = 77
    text_width: int = 768
    text_bottleneck: int = 64
    clip_image_width: int = 512
    text_prediction_width: int = 0
    pre_norm: bool = False
    shared_positions: bool = False
    mask_time: bool = False

    def __post_init__(self) -> None:
        if self.latent_size % self.patch_size:
            raise ValueError(f"latent_size {self.latent_size} must be a multiple of patch_size {self.patch_size}")
        if self.num_layers < 2 or self.num_layers % 2:
            raise ValueError(f"num_layers must be even, half before and half behind the middle, got {self.num_layers}")
        if self.width % 4:
            raise ValueError(f"num_heads x head_width must be a multiple of 4, got {self.width}")

    @property
    def width(self) -> int:
        """D."""
        return self.num_heads * self.head_width

    @property
    def num_times(self) -> int:
        """Tokens of times."""
        return 2 + self.mask_time

    @property
    def num_patches(self) -> int:
        """Tokens of one latent."""
        return (self.latent_size // self.patch_size) ** 2


class Joint(NamedTuple):
    """One value per modality: latents, noise, velocities or predictions of a batch of pairs.

    `image` (B, C, S, S), `clip_image` (B, 1, V), `mask` (B, C, S, S).
    """

    image: Tensor
    clip_image: Tensor
    mask: Tensor


class Patches(nn.Module):
    """(B, C, S, S) -> (B, (S/P)^2, D), row-major."""

    def __init__(self, channels: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class JoDiffusion(nn.Module):
    """The joint denoiser (JoDiffusion, section "Joint diffusion"; UniDiffuser, section 4)."""

    def __init__(self, config: JoDiffusionConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        num_tokens = config.num_times + config.num_text_tokens + 1 + 2 * config.num_patches
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, width))  # the data type has its own
        self.data_type_pos_embed_token = nn.Parameter(torch.zeros(1, 1, width))
        self.data_type_token_embedding = nn.Embedding(2, width)
        self.pre_text = nn.Linear(config.text_width, config.text_bottleneck)
        self.text_in = nn.Linear(config.text_bottleneck, width)
        self.clip_img_in = nn.Linear(config.clip_image_width, width)
        self.vae_img_in = Patches(config.image_channels, patch, width)
        self.vae_label_in = Patches(config.mask_channels, patch, width)
        self.transformer = UViT(width, config.num_heads, config.num_layers, config.pre_norm)
        self.text_out = nn.Linear(width, config.text_bottleneck)
        self.post_text = nn.Linear(config.text_bottleneck, config.text_prediction_width or config.text_width)
        self.vae_img_out = nn.Linear(width, patch * patch * config.image_channels)
        self.clip_img_out = nn.Linear(width, config.clip_image_width)
        self.label_out = nn.Linear(width, patch * patch * config.mask_channels)
        self._initialise()

    @property
    def num_tokens(self) -> int:
        """Tokens that the transformer sees of a pair."""
        return self.pos_embed.shape[1] + self.data_type_pos_embed_token.shape[1]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.data_type_pos_embed_token, std=0.02)
        if self.config.shared_positions:
            num_patches = self.config.num_patches
            grid = sine_cosine_grid(self.config.latent_size // self.config.patch_size, self.config.width)
            with torch.no_grad():
                self.pos_embed[0, -2 * num_patches :] = 0.5 * grid.repeat(2, 1)
                self.pos_embed[0, -2 * num_patches : -num_patches] += 0.2 * torch.randn(self.config.width)
                self.pos_embed[0, -num_patches:] += 0.2 * torch.randn(self.config.width)

    def forward(
        self,
        noisy: Joint,
        text: Tensor,
        t_image: Tensor,
        t_text: Tensor,
        t_mask: Tensor | None = None,
        *,
        run: Callable[[nn.Module, Tensor], Tensor] = compute,
    ) -> tuple[Joint, Tensor]:
        """Predicts the noise (or, where trained so, the velocity) of every modality.

        Args:
            noisy: latents at time `t_image`, the mask's at `t_mask`.
            text: (B, T, E) text embedding at time `t_text`.
            t_image: (B,) the time that image, CLIP image and mask share, 0 (clean) to 1000 (noise).
            t_text: (B,) the time of the text; 0 is clean, 1000 tells the network nothing.
            t_mask: (B,) the mask's own time, where the network has `mask_time`; None: `t_image`.
            run: gives the output of an attention or feed-forward layer for its input.

        Returns:
            Predictions for the joint latents, and for the text (B, T, E or `text_prediction_width`).

        Raises:
            ValueError: a mask time for a network without.
        """
        if t_mask is not None and not self.config.mask_time:
            raise ValueError("image and mask share one time here; build with mask_time=True")
        num_text, num_patches, num_times = self.config.num_text_tokens, self.config.num_patches, self.config.num_times
        text_tokens = self.text_in(self.pre_text(text))
        dtype = text_tokens.dtype  # of autocast, where that is on
        given = (t_image, t_text, t_image if t_mask is None else t_mask)[:num_times]
        times = torch.stack([timestep_embedding(t, self.config.width) for t in given], dim=1).to(dtype)
        data_type = self.data_type_token_embedding.weight[1].expand(len(text), 1, -1)
        tokens = [
            times,
            data_type,
            text_tokens,
            self.clip_img_in(noisy.clip_image),
            self.vae_img_in(noisy.image),
            self.vae_label_in(noisy.mask),
        ]
        before, behind = self.pos_embed.tensor_split([num_times], dim=1)
        positions = torch.cat([before, self.data_type_pos_embed_token, behind], dim=1)
        x = self.transformer(torch.cat([part.to(dtype) for part in tokens], dim=1) + positions.to(dtype), run)
        _, text_x, clip_x, image_x, mask_x = x.split([num_times + 1, num_text, 1, num_patches, num_patches], dim=1)
        prediction = Joint(
            image=self._to_latent(self.vae_img_out(image_x)),
            clip_image=self.clip_img_out(clip_x),
            mask=self._to_latent(self.label_out(mask_x)),
        )
        return prediction, self.post_text(self.text_out(text_x))

    def _to_latent(self, patches: Tensor) -> Tensor:
        """(B, N, P * P * C) -> (B, C, S, S)."""
        patch = self.config.patch_size
        side = self.config.latent_size // patch
        cells = patches.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))
        return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """(B,) times -> (B, D) float32 sinusoids, cosines first (UniDiffuser's convention)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float().unsqueeze(1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def sine_cosine_grid(side: int, width: int) -> Tensor:
    """(side * side, D) two-dimensional sine-cosine positions, row-major (MAE, appendix)."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([timestep_embedding(axis.flatten(), width // 2) for axis in (rows, columns)], dim=1)
