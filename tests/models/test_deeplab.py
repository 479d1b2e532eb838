"""DeepLabV3: its backbone against a ResNet of another library, its sizes against the published ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import ResNetBackbone, ResNetConfig

from models.deeplab import AUXILIARY_WEIGHT, DeepLabSize, DeepLabV3
from models.segmenter import cross_entropy, grown, normalised
from models.segmenters import build_segmenter

SIZE = DeepLabSize((2, 2, 3, 2), width=8, head=16, auxiliary=8)


def spread_norms(net: Any) -> None:
    """Statistics, scales and shifts unlike those at the start, so that mixing them up shows."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for name in ("weight", "bias", "running_mean", "running_var"):
                torch.nn.init.uniform_(getattr(module, name), 0.5, 1.5)


def our_name(name: str) -> str:
    """A tensor's name in transformers -> here, which is torchvision's."""
    parts = name.split(".")
    kind = {"convolution": "conv", "normalization": "bn"}[parts[-2]]
    if parts[0] == "embedder":
        return f"{kind}1.{parts[-1]}"
    block = f"layer{int(parts[2]) + 1}.{parts[4]}"
    if parts[5] == "shortcut":
        return f"{block}.downsample.{0 if kind == 'conv' else 1}.{parts[-1]}"
    return f"{block}.{kind}{int(parts[6]) + 1}.{parts[-1]}"


def test_the_backbone_sees_what_a_plain_resnet_sees_but_more_densely():
    """With dilation instead of strides, every second (fourth) place of stage 3 (4) has the plain network's value: which
    pins the strides, where they are, the dilations, and that a stage's first block looks as far as the stage before."""
    torch.manual_seed(0)
    ours = DeepLabV3(3, SIZE, deep_stem=False).backbone.eval().double()
    spread_norms(ours)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[32, 64, 128, 256],
        depths=list(SIZE.blocks),
        out_features=["stage3", "stage4"],
    )
    theirs = ResNetBackbone(config).eval().double()
    state = ours.state_dict()
    theirs.load_state_dict({name: state[our_name(name)] for name in theirs.state_dict()})
    image = torch.randn(2, 3, 64, 96).double()
    with torch.no_grad():
        third, fourth = ours(image)
        plain = theirs(image).feature_maps
    assert third.shape == (2, 128, 8, 12) and fourth.shape == (2, 256, 8, 12)
    torch.testing.assert_close(third[..., ::2, ::2], plain[0])
    torch.testing.assert_close(fourth[..., ::4, ::4], plain[1])


@pytest.mark.parametrize(("name", "millions"), [("deeplabv3_r50", 68.1), ("deeplabv3_r101", 87.1)])
def test_sizes_are_the_published_ones(name, millions):
    with torch.device("meta"):
        net: Any = build_segmenter(name, 21)
    assert round(sum(one.numel() for one in net.parameters()) / 1e6, 1) == millions
    stages = (net.backbone.layer1, net.backbone.layer2, net.backbone.layer3, net.backbone.layer4)
    assert [[block.conv2.dilation[0] for block in stage][:3] for stage in stages] == [
        [1] * 3,
        [1] * 3,
        [1, 2, 2],
        [2, 4, 4],
    ]
    assert [stage[0].conv2.stride[0] for stage in stages] == [1, 2, 1, 1]
    assert [module.conv.dilation[0] for module in net.decode_head.aspp_modules] == [1, 12, 24, 36]


def test_the_loss_is_that_of_the_head_and_four_tenths_of_the_auxiliary_one():
    torch.manual_seed(0)
    net = DeepLabV3(3, SIZE).eval()
    image, mask = torch.rand(2, 3, 32, 40) * 2 - 1, torch.randint(0, 3, (2, 32, 40))
    with torch.no_grad():
        middle, _ = net.backbone(normalised(image))
        side = cross_entropy(grown(net.auxiliary_head(middle), image), mask, 255)
        expected = cross_entropy(net(image), mask, 255) + AUXILIARY_WEIGHT * side
        torch.testing.assert_close(net(image, mask, 255), expected)
    assert AUXILIARY_WEIGHT == 0.4


def test_a_head_sees_the_whole_picture_and_drops_channels_only_in_training():
    torch.manual_seed(0)
    net = DeepLabV3(3, SIZE)
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(net.eval()(image), net(image))
        far = net(torch.cat([image[..., :32], image[..., 32:] * -1], dim=-1))
        assert not torch.allclose(far[..., :4], net(image)[..., :4])
        net.train()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        assert not torch.equal(net(image), net(image))
