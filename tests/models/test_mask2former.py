"""Mask2Former: transformers' network without torchvision, its sizes, its answers and others' weights in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, SwinConfig, SwinForImageClassification

from models.mask2former import Mask2Former, Mask2FormerSize
from models.segmenters import build_segmenter
from models.weights import WeightsError

RESNET = Mask2FormerSize(
    "resnet", (1, 1, 1, 1), embedding=8, width=32, num_queries=4, encoder_layers=1, decoder_layers=1
)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return build_segmenter("mask2former_tiny", 5).eval()


@pytest.mark.parametrize(("name", "millions"), [("mask2former_swin_s", 68.8), ("mask2former_r50", 44.0)])
def test_sizes_are_the_published_ones(name, millions):
    with torch.device("meta"):
        net: Any = build_segmenter(name, 150)
    assert round(sum(one.numel() for one in net.parameters()) / 1e6, 1) == millions
    assert net.loss.num_points == 12544 and len(net.net.model.transformer_module.decoder.layers) == 9


def test_a_score_is_the_sum_over_queries_of_class_times_place(net):
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        classes, masks = net._predict(image)
        large = torch.nn.functional.interpolate(masks[-1], (64, 64), mode="bilinear", align_corners=False)
        chance = classes[-1, 0].softmax(-1)
        expected = sum(chance[q, :5, None, None] * large[0, q].sigmoid() for q in range(8))
        torch.testing.assert_close(net(image)[0], expected)
    assert classes.shape == (4, 1, 8, 6) and masks.shape == (4, 1, 8, 16, 16)


def test_what_pads_a_picture_is_unknown(net):
    torch.manual_seed(0)
    image, mask = torch.rand(1, 3, 40, 40) * 2 - 1, torch.randint(0, 5, (1, 40, 40))
    seen: dict[str, torch.Tensor] = {}
    net.loss, real = (lambda classes, masks, truth, ignore, seeds: seen.update(truth=truth, masks=masks)), net.loss
    try:
        net(image, mask, 255, [1])
    finally:
        net.loss = real
    assert (
        seen["truth"].shape == (1, 64, 64)
        and (seen["truth"][0, 40:] == 255).all()
        and (seen["truth"][0, :, 40:] == 255).all()
    )
    assert torch.equal(seen["truth"][0, :40, :40].long(), mask[0]) and len(seen["masks"]) == 4


def test_a_backbone_of_swin(tmp_path, net):
    config = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4)
    torch.manual_seed(1)
    SwinForImageClassification(config).save_pretrained(tmp_path)
    found: Any = build_segmenter("mask2former_tiny", 5, pretrained=str(tmp_path))
    name = "net.model.pixel_level_module.encoder.swin.embeddings.patch_embeddings.projection.weight"
    expected = SwinForImageClassification.from_pretrained(tmp_path).swin.embeddings.patch_embeddings.projection.weight
    assert torch.equal(found.state_dict()[name], expected) and not torch.equal(net.state_dict()[name], expected)
    with pytest.raises(WeightsError, match="does not fit ResNetBackbone:\n  missing"):
        Mask2Former(5, RESNET, str(tmp_path))


def test_a_backbone_of_resnet(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1])
    torch.manual_seed(1)
    whole = ResNetForImageClassification(config)
    whole.save_pretrained(tmp_path)
    found: Any = Mask2Former(5, RESNET, str(tmp_path)).net.model.pixel_level_module.encoder.state_dict()
    assert len(found) > 50 and all(
        torch.equal(value, whole.state_dict()[f"resnet.{name}"]) for name, value in found.items()
    )


def test_a_whole_network_with_its_classes_or_others(tmp_path, net):
    whole: Any = Mask2Former(5, RESNET)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in whole.net.state_dict().items()}}, tmp_path / "a.pth"
    )
    with pytest.raises(WeightsError, match="does not fit Mask2FormerForUniversalSegmentation"):
        build_segmenter("mask2former_tiny", 5, pretrained=str(tmp_path / "a.pth"))
    same, other = (Mask2Former(count, RESNET, str(tmp_path / "a.pth")) for count in (5, 7))
    for name, value in whole.net.state_dict().items():
        assert torch.equal(same.net.state_dict()[name], value)
        assert name.startswith("class_predictor.") or torch.equal(other.net.state_dict()[name], value)
    assert other.net.class_predictor.out_features == 8


def test_a_whole_network_on_swin_as_transformers_4_saved_it(tmp_path):
    """Names of the encoder without "swin", no norm that nothing looks at, and tables that follow from sizes."""
    torch.manual_seed(2)
    whole: Any = build_segmenter("mask2former_tiny", 5)
    whole.net.save_pretrained(tmp_path)  # under names that both releases know
    saved = {
        name.replace("encoder.swin.", "encoder."): value
        for name, value in load_file(tmp_path / "model.safetensors").items()
        if ".swin.layernorm." not in name and not name.endswith("relative_position_index")
    }
    attention = "model.pixel_level_module.encoder.encoder.layers.{}.blocks.0.attention.self"
    assert f"{attention.format(0)}.query.weight" in saved
    for number in range(4):
        saved[f"{attention.format(number)}.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    torch.save(saved, tmp_path / "old.pth")
    found: Any = build_segmenter("mask2former_tiny", 5, pretrained=str(tmp_path / "old.pth"))
    assert all(torch.equal(found.net.state_dict()[name], value) for name, value in whole.net.state_dict().items())
    del saved["model.transformer_module.level_embed.weight"]
    torch.save(saved, tmp_path / "old.pth")
    with pytest.raises(WeightsError, match="missing model.transformer_module.level_embed.weight"):
        build_segmenter("mask2former_tiny", 5, pretrained=str(tmp_path / "old.pth"))


def test_a_name_that_nobody_can_reach_is_told_in_a_sentence(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("models.published_files.snapshot_download", unreachable)
    with pytest.raises(WeightsError, match="the Hugging Face hub did not give it"):
        build_segmenter("mask2former_tiny", 5, pretrained="owner/name")
