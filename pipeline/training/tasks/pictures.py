"""What image tasks share: decoding PAIR rows, mirroring, and sheets of pictures to look at."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from models.draws import Draws
from pipeline.pictures.codec import decode_image, decode_mask
from pipeline.pictures.squares import centre, require_one_size, seen, seen_mask
from pipeline.tables.schema import Batch
from pipeline.training.task import Tensors

MAX_PIXELS = 2**18  # one picture of 512 x 512, or 64 of 64 x 64


def decode_pairs(batch: Batch, size_px: int = 0) -> Batch:
    """Stage: `image` and `mask` as PAIR holds them -> (B, H, W, 3) uint8 and (B, H, W); other columns are dropped.

    With `size_px`, the middle of each at that size; without, all must be of one size.
    """
    decoded: Batch = {}
    where = batch.get("pair_id", np.arange(len(next(iter(batch.values())))))
    for name, decode, look in (("image", decode_image, seen), ("mask", decode_mask, seen_mask)):
        if name in batch:
            arrays = [decode(cell["bytes"], f"{name} of {row}") for cell, row in zip(batch[name], where, strict=True)]
            if size_px:
                arrays = [look(array, centre(*array.shape[:2]), size_px) for array in arrays]
            require_one_size({array.shape[:2] for array in arrays})
            decoded[name] = np.stack(arrays)
    return decoded


def mirrored(batch: Tensors, draws: Draws) -> Tensors:
    """Flips about half of the rows left to right, all their pictures (B, H, W, ...) together."""
    chosen = draws.uniform() < 0.5
    return {
        name: torch.where(chosen.view(-1, *[1] * (value.ndim - 1)), value.flip(2), value)
        for name, value in batch.items()
    }


def cross_entropy(logits: Tensor, mask: Tensor, ignore_index: int) -> Tensor:
    """Mean over known pixels of (B, K + 1, H, W) logits against (B, H, W) class ids; 0 where no pixel is known."""
    total = functional.cross_entropy(logits.float(), mask.long(), ignore_index=ignore_index, reduction="sum")
    return total / (mask != ignore_index).sum().clamp(min=1)


def chunks(pictures: Tensor) -> tuple[Tensor, ...]:
    """(B, H, W, ...) cut into parts whose activations fit into memory at any size of picture, for judging."""
    height, width = pictures.shape[1:3]
    return pictures.split(max(1, MAX_PIXELS // (height * width)))


def to_float_image(image: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return image.permute(0, 3, 1, 2).float() / 127.5 - 1
