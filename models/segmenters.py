"""Segmenters that prove a data set: trained on one set of pairs, tested on another."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

SegmenterName = Literal["unet_small"]


def build_segmenter(name: SegmenterName, num_outputs: int, width: int = 24) -> nn.Module:
    """A fresh segmenter: (B, 3, H, W) float32 in [-1, 1] -> class logits (B, num_outputs, H, W).

    Args:
        name: "unet_small" is a U-Net behind a stride-2 stem; H and W must be multiples of 16.
        num_outputs: K + 1.
        width: channels of the stem.
    """
    if name != "unet_small":
        raise ValueError(f"no segmenter {name!r}; there is unet_small")
    return SmallUNet(num_outputs, width)


class SmallUNet(nn.Module):
    """U-Net with batch norm (Ronneberger et al., 2015), small enough to learn on a CPU in a minute.

    It works at half resolution, like most segmenters: at full resolution the same time reaches a third of the mIoU.
    """

    def __init__(self, num_outputs: int, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.down = nn.ModuleList(
            _convolutions(narrow, wide) for narrow, wide in zip([width, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            _convolutions(deep + skipped, skipped) for deep, skipped in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.head = nn.Conv2d(width, num_outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        skipped: list[Tensor] = []
        x = self.stem(image)
        for stage, layer in enumerate(self.down):
            x = layer(x if stage == 0 else self.pool(x))
            skipped.append(x)
        x = skipped.pop()
        for layer in self.up:
            x = layer(torch.cat([self.grow(x), skipped.pop()], dim=1))
        return self.grow(self.head(x))


def _convolutions(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
