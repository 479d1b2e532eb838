"""DeepLabV3 (Chen et al., 2017, "Rethinking Atrous Convolution") on a ResNet with a deep stem, with an auxiliary head.

Parts and tensors are named as in mmsegmentation's checkpoints, so that those load as they are.

Legend: B pictures, H and W pixels, C channels, K classes without id 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.segmenter import Segmenter, cross_entropy, grown, normalised

STRIDES, DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)
"""Of the four stages: the last two keep an eighth of the picture's size and look further instead."""
RATES = (1, 12, 24, 36)
"""Dilations of the head's parallel convolutions."""
AUXILIARY_WEIGHT = 0.4
DROPOUT = 0.1
EXPANSION = 4


@dataclass(frozen=True)
class DeepLabSize:
    """Bottlenecks of each stage, and channels: of the first stage's insides, of the head, of the auxiliary head."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    head: int = 512
    auxiliary: int = 256


class DeepLabV3(Segmenter):
    """See the module.

    Args:
        num_outputs: K + 1.
        size: of the network.
        deep_stem: three 3x3 convolutions at the start; otherwise one of 7x7, as in torchvision's backbones.
    """

    def __init__(self, num_outputs: int, size: DeepLabSize, *, deep_stem: bool = True) -> None:
        super().__init__()
        wide = EXPANSION * 8 * size.width
        self.backbone = ResNet(size, deep_stem)
        self.decode_head = ASPPHead(wide, size.head, num_outputs)
        self.auxiliary_head = FCNHead(wide // 2, size.auxiliary, num_outputs)
        self.apply(_initialise)
        for head in (self.decode_head, self.auxiliary_head):
            nn.init.normal_(head.conv_seg.weight, std=0.01)
            nn.init.zeros_(head.conv_seg.bias)  # type: ignore[arg-type]

    def scores(self, image: Tensor) -> Tensor:
        return grown(self.decode_head(self.backbone(normalised(image))[1]), image)

    def training_loss(self, image: Tensor, mask: Tensor, ignore_index: int, seeds: Sequence[int] = ()) -> Tensor:
        middle, last = self.backbone(normalised(image))
        main = cross_entropy(grown(self.decode_head(last), image), mask, ignore_index)
        side = cross_entropy(grown(self.auxiliary_head(middle), image), mask, ignore_index)
        return main + AUXILIARY_WEIGHT * side


class ResNet(nn.Module):
    """(B, 3, H, W) -> what its third and its fourth stage see, (B, C, H/8, W/8) each."""

    def __init__(self, size: DeepLabSize, deep_stem: bool) -> None:
        super().__init__()
        width, half = size.width, size.width // 2
        self.deep_stem = deep_stem
        if deep_stem:
            self.stem = nn.Sequential(
                *_convolution(3, half, 3, stride=2), *_convolution(half, half, 3), *_convolution(half, width, 3)
            )
        else:
            self.conv1, self.bn1, _ = _convolution(3, width, 7, stride=2)
        channels = width
        for stage, (count, stride, dilation) in enumerate(zip(size.blocks, STRIDES, DILATIONS, strict=True)):
            inner = width * 2**stage
            # The first block of a stage looks as far as the stage before: mmsegmentation's `contract_dilation`.
            first = Bottleneck(channels, inner, stride, max(1, dilation // 2))
            channels = EXPANSION * inner
            others = [Bottleneck(channels, inner, 1, dilation) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.ModuleList([first, *others]))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(image) if self.deep_stem else functional.relu(self.bn1(self.conv1(image)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        seen = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:  # type: ignore[union-attr]
                x = block(x)
            seen.append(x)
        return seen[2], seen[3]


class Bottleneck(nn.Module):
    """(B, C, H, W) -> (B, 4 inner, H/stride, W/stride); the stride is in the 3x3."""

    def __init__(self, channels: int, inner: int, stride: int, dilation: int) -> None:
        super().__init__()
        wide = EXPANSION * inner
        self.conv1, self.bn1, _ = _convolution(channels, inner, 1)
        self.conv2, self.bn2, _ = _convolution(inner, inner, 3, stride=stride, dilation=dilation)
        self.conv3, self.bn3, _ = _convolution(inner, wide, 1)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != wide:
            self.downsample = nn.Sequential(*_convolution(channels, wide, 1, stride=stride)[:2])

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class ASPPHead(nn.Module):
    """(B, C, h, w) -> (B, K + 1, h, w) logits: parallel convolutions of several dilations, and the whole picture."""

    def __init__(self, channels: int, width: int, num_outputs: int) -> None:
        super().__init__()
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(channels, width, 1))
        self.aspp_modules = nn.ModuleList(
            ConvModule(channels, width, 1 if rate == 1 else 3, dilation=rate) for rate in RATES
        )
        self.bottleneck = ConvModule((1 + len(RATES)) * width, width, 3)
        self.conv_seg = nn.Conv2d(width, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Bilinear from one pixel is that pixel everywhere.
        whole = self.image_pool(x).expand(-1, -1, *x.shape[-2:])
        joined = self.bottleneck(torch.cat([whole, *(module(x) for module in self.aspp_modules)], dim=1))
        return self.conv_seg(functional.dropout2d(joined, DROPOUT, self.training))


class FCNHead(nn.Module):
    """(B, C, h, w) -> (B, K + 1, h, w) logits."""

    def __init__(self, channels: int, width: int, num_outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvModule(channels, width, 3)])
        self.conv_seg = nn.Conv2d(width, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_seg(functional.dropout2d(self.convs[0](x), DROPOUT, self.training))


class ConvModule(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv, self.bn, _ = _convolution(channels, width, kernel, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def _convolution(
    channels: int, width: int, kernel: int, stride: int = 1, dilation: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(channels, width, kernel, stride, padding, dilation, bias=False)
    return convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, Bottleneck):  # a block begins as what skips it
        nn.init.zeros_(module.bn3.weight)
