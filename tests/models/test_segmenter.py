"""Every segmenter is called alike, takes pictures of any size, and learns from all of its parameters."""

from __future__ import annotations

import copy
import sys
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from models.segmenter import IMAGENET_MEAN, cross_entropy, normalised, padded, per_channel
from models.segmenters import SegmenterName, build_segmenter, load_segmenter
from models.weights import WeightsError

NAMES = ("unet_small", "deeplabv3_tiny", "mask2former_tiny", "segformer_tiny")


@pytest.fixture(scope="module", params=NAMES)
def net(request):
    torch.manual_seed(0)
    return build_segmenter(request.param, 5, width=4)


def batch(height: int = 45, width: int = 70):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    mask = torch.randint(0, 5, (2, height, width), generator=generator)
    mask[0, :9] = 255
    return image, mask


@pytest.mark.parametrize(("height", "width"), [(45, 70), (17, 33), (64, 32)])
def test_pictures_of_any_size_get_a_score_for_every_pixel(net, height, width):
    image, mask = batch(height, width)
    with torch.no_grad():
        assert net.eval()(image).shape == (2, 5, height, width)
        assert net.train()(image, mask, 255, [1, 2]).shape == ()


def test_all_parameters_that_are_trained_get_a_finite_gradient(net):
    image, mask = batch()
    net.train().zero_grad()
    net(image, mask, 255, [1, 2]).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in net.parameters() if one.requires_grad)


def test_a_batch_that_nobody_knows_teaches_nothing(net):
    net.train().zero_grad()
    loss = net(batch()[0], torch.full((2, 45, 70), 255), 255, [1, 2])
    loss.backward()
    assert loss.item() == 0
    assert not any(one.grad.any() for one in net.parameters() if one.requires_grad)


def test_unknown_pixels_change_no_loss(net):
    image, mask = batch()
    other = torch.where(mask == 255, 77, mask)
    net = copy.deepcopy(net).eval()  # without dropout
    with torch.no_grad():
        assert net(image, mask, 255, [1, 2]) == net(image, other, 77, [1, 2])


def test_half_precision_stays_finite(net):
    image, mask = batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert net.train()(image, mask, 255, [1, 2]).isfinite()


def test_a_trained_network_is_read_back(net, tmp_path, request):
    name = request.node.callspec.params["net"]
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    found: Any = load_segmenter(name, 5, 4, tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(found(batch()[0]), copy.deepcopy(net).eval()(batch()[0]), atol=0, rtol=0)
    with pytest.raises(WeightsError, match="does not fit"):
        load_segmenter(name, 6, 4, tmp_path / "model.safetensors")


def test_a_network_without_memory_gets_all_of_it_from_its_state(net, request):
    with torch.device("meta"):
        empty = build_segmenter(request.node.callspec.params["net"], 5, 4)
    empty.load_state_dict(net.state_dict(), assign=True)
    assert not any(one.is_meta for one in (*empty.parameters(), *empty.buffers()))


def test_none_needs_torchvision_timm_or_mmcv(net):
    assert not {"torchvision", "timm", "mmcv"} & sys.modules.keys()


def test_the_small_unet_is_as_it_was():
    torch.manual_seed(0)
    net: Any = build_segmenter("unet_small", 3, width=4)
    names = list(net.state_dict())
    assert (names[0], names[-1], len(names)) == ("stem.0.weight", "head.bias", 92)
    torch.manual_seed(0)
    torch.testing.assert_close(net.stem[0].weight, torch.nn.Conv2d(3, 4, 4, bias=False).weight, atol=0, rtol=0)


def test_a_name_that_is_none_and_weights_that_it_cannot_take():
    with pytest.raises(ValueError, match="no segmenter 'fcn'; there are unet_small, deeplabv3_r50"):
        build_segmenter(cast(SegmenterName, "fcn"), 5)
    with pytest.raises(ValueError, match="unet_small has no pre-trained weights"):
        build_segmenter("unet_small", 5, pretrained="a.safetensors")


def test_cross_entropy_is_the_mean_over_known_pixels():
    logits, mask = torch.randn(2, 5, 4, 4), torch.randint(0, 5, (2, 4, 4))
    mask[0, 0] = 255
    expected = torch.nn.functional.cross_entropy(logits, mask, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, mask, 255), expected)


def test_normalised_and_padded():
    mean = per_channel(IMAGENET_MEAN, torch.device("cpu")) * 2 - 1
    torch.testing.assert_close(normalised(mean), torch.zeros(1, 3, 1, 1))
    assert padded(torch.ones(1, 3, 17, 32), 16).shape == (1, 3, 32, 32)
    assert padded(torch.ones(1, 3, 16, 32), 16).sum() == 3 * 16 * 32
