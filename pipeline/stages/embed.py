"""Embeddings of pictures: what lies near each other in them looks alike.

Without a network the picture itself at 16 x 16 pixels, which finds copies; with CLIP's image tower or DINOv2, what they
see in it, which finds what is alike in kind.

Legend: B pictures, H and W their sides, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

SIDE = 16
Embed = Callable[[np.ndarray], np.ndarray]
"""(B, H, W, 3) uint8 -> (B, D) float32."""


def small_pictures(images: np.ndarray) -> np.ndarray:
    """The embedding without a network: pictures (B, H, W, 3) uint8 -> (B, 768) float32 in [0, 1]."""
    small = [Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BOX) for one in images]
    return np.stack([np.asarray(one, np.float32).ravel() / 255 for one in small])


def make_embed(embedder: str, device: str) -> Embed:
    """The embedding by a network: `embedder` is a folder, or a name on the Hugging Face hub.

    Raises:
        WeightsError: it cannot be loaded, or is none of CLIP and DINOv2.
    """
    if not embedder:
        return small_pictures
    import torch

    from models.embedder import load_embedder

    net = load_embedder(embedder).to(device)

    def embed(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: Any = net(torch.from_numpy(images).to(device))
        return found.float().cpu().numpy()

    return embed
