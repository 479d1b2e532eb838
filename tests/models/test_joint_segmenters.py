"""A joint network as a segmenter: what it makes of pictures, and its own masks of them."""

from __future__ import annotations

import pytest
import torch

from models import joint_segmenters
from models.joint_segmenters import JointHead, JointMasks
from models.labels import GARMENTS
from models.segmenters import build_segmenter, load_segmenter
from models.weights import WeightsError
from pipeline.training.tasks.segmenter import SegmenterTask
from tests.tiny import SIZE_PX, save_tiny_bundle

OUTPUTS = GARMENTS.num_classes + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bundle")
    save_tiny_bundle(place)
    return str(place)


def pictures(num: int = 3, size: int = SIZE_PX) -> torch.Tensor:
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_what_is_seen_of_a_picture_does_not_depend_on_the_others(folder):
    net = JointHead(OUTPUTS, folder, 8).eval()
    image = pictures()
    seen = net.seen(image)
    assert seen.shape == (3, 3 * 4 * 16, 2, 2)
    torch.testing.assert_close(net.seen(image[1:2]), seen[1:2], atol=1e-4, rtol=1e-4)
    assert (seen[0] - seen[1]).abs().max() > 1e-3
    assert net.scores(pictures(2, 24)).shape == (2, OUTPUTS, 24, 24), "pictures of other sizes are resized for it"


def test_the_head_learns_and_the_joint_network_stays(folder, tmp_path):
    torch.manual_seed(0)
    task = SegmenterTask(GARMENTS, "joint_head", 8, pretrained=folder)
    net = task.build()
    bundle = joint_segmenters.frozen(folder, "cpu")
    before = {name: value.clone() for name, value in bundle.net.state_dict().items()}
    image, mask = pictures(8), torch.zeros(8, SIZE_PX, SIZE_PX, dtype=torch.long)
    mask[:, 4:12, 4:12] = 3
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = net(image, mask)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in bundle.net.state_dict().items())
    task.save(net, {}, tmp_path / "head")
    again = task.load(tmp_path / "head")
    assert (tmp_path / "head/model.safetensors").stat().st_size < 2**20, "the joint network is not in it"
    torch.testing.assert_close(again(image), net.eval()(image))


def test_the_networks_own_masks_are_shares_of_classes(folder, monkeypatch):
    monkeypatch.setattr(joint_segmenters, "NUM_SEEN", 2)
    net = JointMasks(folder).eval()
    shares = net.shares(net(pictures(2)))
    assert shares.shape == (2, OUTPUTS, SIZE_PX, SIZE_PX)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, SIZE_PX, SIZE_PX))
    bundle, sampler = joint_segmenters.frozen(folder, "cpu"), joint_segmenters._sampler(folder, "cpu")
    images = ((pictures(2) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    one, two = (sampler.shares_of(images, ["", ""], [seed, seed]) for seed in (0, 1))
    assert bundle.image_size_px == SIZE_PX
    torch.testing.assert_close(shares, (one + two) / 2, atol=1e-4, rtol=1e-3)
    sure = torch.from_numpy(sampler.masks_of(images, ["", ""], [0, 0]).confidence).float() / 255
    torch.testing.assert_close(one.amax(1), sure, atol=0.003, rtol=0)


def test_a_bundle_is_needed(folder, tmp_path):
    for name in ("joint_head", "joint"):
        with pytest.raises(ValueError, match="needs a bundle"):
            build_segmenter(name, OUTPUTS)
    with pytest.raises(WeightsError):
        build_segmenter("joint_head", OUTPUTS, pretrained=str(tmp_path))
    assert isinstance(load_segmenter("joint", OUTPUTS, 8, tmp_path / "nothing", folder), JointMasks)
