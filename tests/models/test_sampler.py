"""What a user relies on: a pair depends on its prompt, its seed and the settings, on nothing else."""

import numpy as np
import pytest
import torch

from models.labels import GARMENTS, VOC
from models.sampler import NoiseStreams, PairSampler, SamplerSettings, classes_and_confidence
from tests.tiny import SIZE_PX, save_tiny_bundle

SETTINGS = SamplerSettings(steps=3, guidance=2.0, precision="float32", batch_size=4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return save_tiny_bundle(tmp_path_factory.mktemp("bundle"))


def test_shapes_and_types(bundle):
    pairs = PairSampler(bundle, SETTINGS)(["a red bag", "a blue dress"], [1, 2])
    assert pairs.image.shape == (2, SIZE_PX, SIZE_PX, 3) and pairs.image.dtype == np.uint8
    assert pairs.mask.shape == pairs.confidence.shape == (2, SIZE_PX, SIZE_PX)
    assert set(np.unique(pairs.mask)) <= {*range(9), 255}
    assert pairs.finite.all()


def test_a_pair_is_the_same_alone_and_in_any_batch(bundle):
    sampler = PairSampler(bundle, SETTINGS)
    together = sampler(["a red bag", "a blue dress", "a green boot"], [1, 2, 3])
    alone = sampler(["a blue dress"], [2])
    shuffled = sampler(["a green boot", "a red bag", "a blue dress", "a red bag"], [3, 7, 2, 1])
    for found in (alone.image[0], shuffled.image[2]):
        assert np.array_equal(found, together.image[1])
    assert np.array_equal(alone.mask[0], together.mask[1])


def test_seed_and_prompt_both_matter(bundle):
    pairs = PairSampler(bundle, SETTINGS)(["a red bag", "a red bag", "a blue dress"], [1, 2, 1])
    assert not np.array_equal(pairs.image[0], pairs.image[1])
    assert not np.array_equal(pairs.image[0], pairs.image[2])


def test_noise_streams_do_not_depend_on_their_neighbours():
    assert torch.equal(NoiseStreams([5, 6]).normal(3, 2)[1], NoiseStreams([6]).normal(3, 2)[0])
    stream = NoiseStreams([5])
    assert not torch.equal(stream.normal(4), stream.normal(4))


def test_too_many_prompts_are_refused(bundle):
    with pytest.raises(ValueError, match="1 to 4 prompts"):
        PairSampler(bundle, SETTINGS)(["a"] * 5, range(5))


def test_uncertain_pixels_become_what_the_label_space_says():
    logits = torch.zeros(1, 9, 1, 2)
    logits[0, 3, 0, 0] = 10
    for labels, expected in ((GARMENTS, 255), (VOC, 0)):
        mask, confidence = classes_and_confidence(logits, labels, threshold=0.5)
        assert mask[0, 0].tolist() == [3, expected]
        assert confidence[0, 0].tolist() == [255, round(255 / 9)]


def test_a_net_that_leaves_the_numbers_is_reported(bundle, monkeypatch):
    sampler = PairSampler(bundle, SETTINGS)
    monkeypatch.setattr(
        "models.sampler.latent_to_image", lambda vae, latent: torch.full((len(latent), 3, SIZE_PX, SIZE_PX), torch.nan)
    )
    assert not sampler(["a red bag"], [1]).finite.any()
