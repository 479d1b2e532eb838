"""What every segmenter has: pictures in, class scores out, and the loss that it is trained with.

Legend: B pictures, H and W pixels, K classes without id 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as functional
from torch import Tensor, nn

from models.annotation_vae import per_channel

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module):
    """One way to call all of them: `net(image)` to predict and `net(image, mask, ignore_index)` to train, so that what
    wraps a network for many workers sees both. A subclass has `scores`, and `training_loss` where it is another one."""

    def forward(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        ignore_index: int = 255,
        seeds: Sequence[int] = (),
    ) -> Tensor:
        """(B, 3, H, W) float32 in [-1, 1] of any size -> (B, K + 1, H, W) scores; with a mask, the scalar loss."""
        return self.scores(image) if mask is None else self.training_loss(image, mask, ignore_index, seeds)

    def scores(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K + 1, H, W); the highest is the class."""
        raise NotImplementedError

    def training_loss(self, image: Tensor, mask: Tensor, ignore_index: int, seeds: Sequence[int] = ()) -> Tensor:
        """The scalar that training lowers.

        Args:
            image: (B, 3, H, W) float32 in [-1, 1].
            mask: (B, H, W) class ids.
            ignore_index: id of pixels that nobody knows; they count for nothing.
            seeds: one per picture, for losses that draw points.
        """
        return cross_entropy(self.scores(image), mask, ignore_index)

    def shares(self, scores: Tensor) -> Tensor:
        """Scores of several views made comparable, so that they can be averaged: here softmax over classes."""
        return scores.float().softmax(1)


def cross_entropy(logits: Tensor, mask: Tensor, ignore_index: int) -> Tensor:
    """Mean over known pixels of (B, K + 1, H, W) logits against (B, H, W) class ids; 0 where no pixel is known."""
    total = functional.cross_entropy(logits.float(), mask.long(), ignore_index=ignore_index, reduction="sum")
    return total / (mask != ignore_index).sum().clamp(min=1)


def normalised(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> with ImageNet's mean and deviation taken out, as pre-trained backbones want it."""
    mean, std = (per_channel(values, image.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((image + 1) / 2 - mean) / std


def padded(image: Tensor, multiple: int) -> Tensor:
    """Zeros on the right and below until both sides are multiples; what comes out is cut back with `[..., :H, :W]`."""
    height, width = image.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return functional.pad(image, (0, right, 0, below)) if below or right else image


def grown(scores: Tensor, like: Tensor) -> Tensor:
    """Scores up-sampled to the size of a picture (B, ..., H, W)."""
    return functional.interpolate(scores, like.shape[-2:], mode="bilinear", align_corners=False)
