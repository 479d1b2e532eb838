"""Segmenters that prove a data set: trained on one set of pairs, tested on another."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.deeplab import DeepLabSize
from models.deeplab_weights import deeplab, has_deep_stem
from models.published_files import read_one
from models.segmenter import Segmenter, padded
from models.weights import load_tensors

SegmenterName = Literal[
    "unet_small",
    "deeplabv3_r50",
    "deeplabv3_r101",
    "mask2former_swin_s",
    "mask2former_r50",
    "segformer_b0",
    "segformer_b1",
    "segformer_b2",
    "segformer_b3",
    "segformer_b4",
    "deeplabv3_tiny",
    "mask2former_tiny",
    "segformer_tiny",
    "joint_head",
    "joint",
]
"""Those that are called tiny are for trying things out. "joint_head" is trained on what a bundle's joint network makes
of pictures, "joint" is that network itself, which is not trained here."""
JOINT = ("joint_head", "joint")
DEEPLABS = {
    "r50": DeepLabSize(),
    "r101": DeepLabSize((3, 4, 23, 3)),
    "tiny": DeepLabSize((1, 1, 1, 1), width=8, head=16, auxiliary=8),
}


def build_segmenter(name: SegmenterName, num_outputs: int, width: int = 24, pretrained: str = "") -> Segmenter:
    """A segmenter: (B, 3, H, W) float32 in [-1, 1] of any size -> class scores (B, num_outputs, H, W).

    Args:
        name: "unet_small" is a U-Net behind a stride-2 stem; the others are as published.
        num_outputs: K + 1.
        width: channels of the stem of "unet_small".
        pretrained: weights to begin with, a file, a folder or a name on the Hugging Face hub; all are drawn without it.
            Of the joint ones the folder of the bundle, which they need.

    Raises:
        ValueError: no such segmenter, or one that there are no weights for.
        WeightsError: weights that cannot be had, or do not fit; says what and where.
    """
    if name not in get_args(SegmenterName):
        raise ValueError(f"no segmenter {name!r}; there are {', '.join(get_args(SegmenterName))}")
    if name == "unet_small" and pretrained:
        raise ValueError("unet_small has no pre-trained weights; leave `pretrained` empty, or take another segmenter")
    if name in JOINT and not pretrained:
        raise ValueError(f"{name} needs a bundle: give its folder as `pretrained`")
    net: Segmenter
    kind, _, size = name.partition("_")
    if kind == "unet":
        net = SmallUNet(num_outputs, width)
    elif kind == "joint":
        from models.joint_segmenters import JointHead, JointMasks

        return JointHead(num_outputs, pretrained) if size else JointMasks(pretrained)
    elif kind == "deeplabv3":
        net = deeplab(num_outputs, DEEPLABS[size], pretrained)
    else:
        return _transformer(kind, size, num_outputs, pretrained)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_segmenter(name: SegmenterName, num_outputs: int, width: int, file: Path, bundle: str = "") -> Segmenter:
    """A trained segmenter from the safetensors of its state, in evaluation mode; of the joint ones with their bundle,
    and "joint" is no more than that.

    Raises:
        WeightsError: damaged, or of another network.
    """
    if name == "joint":
        return build_segmenter(name, num_outputs, width, bundle).eval()
    tensors = read_one(file)
    if name.startswith("deeplabv3") and not has_deep_stem(tensors):
        net: Segmenter = deeplab(num_outputs, DEEPLABS[name.partition("_")[2]], deep_stem=False)
    else:
        net = build_segmenter(name, num_outputs, width, bundle if name in JOINT else "")
    load_tensors(net, tensors, str(file))
    return net.eval()


def _transformer(kind: str, size: str, num_outputs: int, pretrained: str) -> Segmenter:
    # Not above: transformers is a large part of a process's start, and most processes need none of it.
    if kind == "mask2former":
        from models.mask2former import SIZES as MASK2FORMERS
        from models.mask2former import Mask2Former

        return Mask2Former(num_outputs, MASK2FORMERS[size], pretrained)
    from models.segformer import SIZES as SEGFORMERS
    from models.segformer import Segformer

    return Segformer(num_outputs, SEGFORMERS[size], pretrained)


class SmallUNet(Segmenter):
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

    def scores(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        skipped: list[Tensor] = []
        x = self.stem(padded(image, 16))
        for stage, layer in enumerate(self.down):
            x = layer(x if stage == 0 else self.pool(x))
            skipped.append(x)
        x = skipped.pop()
        for layer in self.up:
            x = layer(torch.cat([self.grow(x), skipped.pop()], dim=1))
        return self.grow(self.head(x))[..., :height, :width]


def _convolutions(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
