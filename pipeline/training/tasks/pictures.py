"""What image tasks share: decoding PAIR rows, mirroring, and sheets of pictures to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from models.draws import Draws
from models.segmenter import cross_entropy as cross_entropy
from pipeline.training.task import Tensors

MAX_PIXELS = 2**18  # one picture of 512 x 512, or 64 of 64 x 64


def mirrored(batch: Tensors, draws: Draws) -> Tensors:
    """Flips about half of the rows left to right, all their pictures (B, H, W, ...) together."""
    chosen = draws.uniform() < 0.5
    return {
        name: torch.where(chosen.view(-1, *[1] * (value.ndim - 1)), value.flip(2), value)
        for name, value in batch.items()
    }


def chunks(pictures: Tensor) -> tuple[Tensor, ...]:
    """(B, H, W, ...) cut into parts whose activations fit into memory at any size of picture, for judging."""
    height, width = pictures.shape[1:3]
    return pictures.split(max(1, MAX_PIXELS // (height * width)))


def to_float_image(image: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return image.permute(0, 3, 1, 2).float() / 127.5 - 1
