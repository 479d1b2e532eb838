"""Embedder: what a network that was trained on many pictures sees in one, as a vector.

Legend: B pictures, H and W their sides, D numbers of an embedding.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config
from transformers import Dinov2Model as Dinov2

from models.annotation_vae import per_channel
from models.frozen import clip_pixels
from models.pretrained import filled, read_config, read_pretrained
from models.weights import WeightsError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which DINOv2 expects."""
DINO_PX = 224


class Embedder(nn.Module):
    """CLIP's image tower or DINOv2, and how they want their pictures."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, D), in the dtype of the weights."""
        pixels = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        if isinstance(self.net, Dinov2):
            small = functional.interpolate(pixels, (DINO_PX, DINO_PX), mode="bicubic", antialias=True).clamp(-1, 1)
            normalised = ((small + 1) / 2 - per_channel(MEAN, image.device)) / per_channel(STD, image.device)
            return self.net(pixel_values=normalised.to(self.net.dtype)).pooler_output
        return self.net(clip_pixels(pixels, self.net.config.image_size).to(self.net.dtype)).image_embeds


def load_embedder(source: str) -> Embedder:
    """Reads CLIP, CLIP's image tower or DINOv2 from a folder or a name on the hub, `owner/name[@revision][/folder]`.

    Raises:
        WeightsError: nothing there, damaged, not complete, or another network.
    """
    config = read_config(source)
    if isinstance(config, Dinov2Config):
        return Embedder(filled(Dinov2, config, read_pretrained(source), source).eval())
    if isinstance(config, CLIPConfig):
        config = config.vision_config
    if not isinstance(config, CLIPVisionConfig):
        raise WeightsError(
            f"{source}: a {config.model_type}, which does not embed pictures here; give CLIP, its image tower or DINOv2"
        )
    unused = ("text_model", "text_projection", "logit_scale")
    return Embedder(
        filled(CLIPVisionModelWithProjection, config, read_pretrained(source), source, unused=unused).eval()
    )
