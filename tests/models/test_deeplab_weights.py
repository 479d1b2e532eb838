"""Weights of others for DeepLabV3, as OpenMMLab, torchvision, timm and mmsegmentation name them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models.deeplab import DeepLabV3
from models.deeplab_weights import deeplab, has_deep_stem
from models.segmenters import DEEPLABS, build_segmenter, load_segmenter
from models.weights import WeightsError

TINY = DEEPLABS["tiny"]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    return DeepLabV3(5, TINY)


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone().contiguous() for name, value in module.state_dict().items()}


def saved(values, tmp_path, name: str = "weights.pth") -> str:
    if name.endswith(".safetensors"):
        save_file(values, tmp_path / name)
    else:
        torch.save(values, tmp_path / name)
    return str(tmp_path / name)


def assert_same(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize("file", ["resnet.pth", "resnet.safetensors"])
def test_a_backbone_of_openmmlab(net, tmp_path, file):
    values = tensors(net.backbone) | {"fc.weight": torch.zeros(10, 256), "fc.bias": torch.zeros(10)}
    assert "stem.0.weight" in values and "layer1.0.conv1.weight" in values and "layer1.0.downsample.1.bias" in values
    found: Any = build_segmenter("deeplabv3_tiny", 7, pretrained=saved(values, tmp_path, file))
    assert_same(found.backbone, net.backbone)
    assert found.decode_head.conv_seg.out_channels == 7


def test_a_backbone_of_torchvision_brings_its_plain_stem(tmp_path):
    plain = DeepLabV3(5, TINY, deep_stem=False)
    values = {name: value for name, value in tensors(plain.backbone).items() if "num_batches" not in name}
    assert {"conv1.weight", "bn1.running_mean"} <= values.keys()
    found: Any = build_segmenter("deeplabv3_tiny", 5, pretrained=saved(values, tmp_path))
    assert_same(found.backbone, plain.backbone)
    state = tensors(found)
    assert not has_deep_stem(state)
    again = load_segmenter("deeplabv3_tiny", 5, 24, tmp_path / saved(state, tmp_path, "own.safetensors"))
    assert_same(again, found)


def test_a_deep_stem_of_timm(net, tmp_path):
    values = {}
    for name, value in tensors(net.backbone).items():
        start, _, rest = name.partition(".")
        number, _, last = rest.partition(".")
        timm = (f"bn1.{last}" if number == "7" else f"conv1.{number}.{last}") if start == "stem" else name
        values[timm] = value
    assert_same(deeplab(5, TINY, saved(values, tmp_path)).backbone, net.backbone)


def test_a_resnet_d_of_timm_is_told_by_its_shortcuts(net, tmp_path):
    values = {name.replace("downsample.1.", "downsample.2."): value for name, value in tensors(net.backbone).items()}
    values = {name.replace("downsample.0.", "downsample.1."): value for name, value in values.items()}
    with pytest.raises(WeightsError, match=r"is a ResNet-D, .*resnet50c\.gluon_in1k"):
        deeplab(5, TINY, saved(values, tmp_path))


def test_a_whole_checkpoint_of_mmsegmentation_with_its_classes_or_others(net, tmp_path, caplog):
    file = saved({"meta": {"epoch": 3}, "state_dict": tensors(net)}, tmp_path)
    assert_same(deeplab(5, TINY, file), net)
    caplog.set_level("INFO")
    other = deeplab(7, TINY, file)
    assert "is of another number of classes; their layers are learned anew" in caplog.text
    assert other.decode_head.conv_seg.out_channels == other.auxiliary_head.conv_seg.out_channels == 7
    for name, value in net.state_dict().items():
        assert ".conv_seg." in name or torch.equal(other.state_dict()[name], value)
    narrow = tensors(net) | {"decode_head.bottleneck.conv.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"network:\n  decode_head\.bottleneck\.conv\.weight is \(1,\)"):
        deeplab(7, TINY, saved(narrow, tmp_path))


def test_a_backbone_in_a_checkpoint_of_another_task(net, tmp_path):
    values = {f"backbone.{name}": value for name, value in tensors(net.backbone).items()}
    assert_same(
        deeplab(5, TINY, saved(values | {"head.fc.weight": torch.zeros(3, 4)}, tmp_path)).backbone, net.backbone
    )


def test_all_that_does_not_fit_is_told_at_once(net, tmp_path):
    values = tensors(net.backbone)
    del values["layer1.0.bn1.bias"]
    values["layer2.0.conv1.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        deeplab(5, TINY, saved(values | {"odd": torch.zeros(1)}, tmp_path))
    text = str(caught.value)
    assert "missing layer1.0.bn1.bias" in text and "surplus odd" in text and "layer2.0.conv1.weight is (1,)" in text


def test_nothing_is_unpickled_and_a_missing_file_is_told(tmp_path):
    with pytest.raises(WeightsError, match="holds more than tensors"):
        deeplab(5, TINY, saved({"state_dict": DeepLabV3(5, TINY)}, tmp_path))
    with pytest.raises(WeightsError, match="no such file of weights"):
        deeplab(5, TINY, str(tmp_path / "none.pth"))


def test_sizes_alone_take_the_stem_and_no_weights(tmp_path):
    file = saved(tensors(DeepLabV3(5, TINY, deep_stem=False).backbone), tmp_path)
    with torch.device("meta"):
        net: Any = deeplab(5, TINY, file)
    assert all(one.is_meta for one in net.parameters()) and not net.backbone.deep_stem
