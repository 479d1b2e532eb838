"""What a user relies on: a pair depends on its prompt, its seed and the settings, on nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import models.jodiffusion
import models.sampler
from models.diffusion import Diffusion
from models.frozen import image_to_latent, latent_to_image
from models.jodiffusion import JoDiffusion
from models.labels import GARMENTS, VOC
from models.reverse import SamplerSettings, Student
from models.sampler import NoiseStreams, PairSampler, classes_and_confidence
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


def test_how_far_predictions_with_and_without_text_are_apart_is_told(bundle):
    sampler = PairSampler(bundle, SETTINGS)
    both = sampler(["a red bag", "a blue dress"], [1, 2]).guidance_difference
    assert both.shape == (2,) and (both > 0).all() and both[0] != both[1]
    np.testing.assert_allclose(sampler(["a blue dress"], [2]).guidance_difference, both[1:], rtol=1e-5)
    unguided = PairSampler(bundle, replace(SETTINGS, guidance=1.0))(["a red bag"], [1])
    assert np.isnan(unguided.guidance_difference).all()
    constant = replace(bundle, net=bundle.net)
    seen = PairSampler(constant, SETTINGS)
    seen._denoise = lambda noisy, text, *_: (noisy, text)
    assert seen(["a red bag"], [1]).guidance_difference.tolist() == [0], "the text changes nothing"


def test_noise_depends_on_every_bit_of_a_seed():
    drawn = NoiseStreams([7, 7 + 2**32, 7 + 2**62]).normal(100)
    assert len({tuple(row.tolist()) for row in drawn}) == 3
    assert torch.equal(NoiseStreams([7]).normal(100)[0], drawn[0])


def test_decoders_take_equal_parts_of_a_batch(bundle, monkeypatch):
    """Else a pair would be decoded at another shape in the last part, and alone."""
    shapes = []
    decode = PairSampler._decode

    def spy(self, latents):
        shapes.append(len(latents.image))
        return decode(self, latents)

    monkeypatch.setattr(PairSampler, "_decode", spy)
    monkeypatch.setattr(models.sampler, "DECODE_PIXELS", 4 * SIZE_PX**2)
    PairSampler(bundle, replace(SETTINGS, batch_size=6))(["a red bag"], [1])
    assert shapes == [3, 3]


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


def test_network_rows_per_step_follow_the_guidance(bundle, monkeypatch):
    sampler = PairSampler(bundle, replace(SETTINGS, steps=4, guided_to=0.5))
    rows = []
    forward = sampler.bundle.net.forward

    def spy(noisy, text, t_image, t_text):
        rows.append(len(text))
        return forward(noisy, text, t_image, t_text)

    monkeypatch.setattr(sampler.bundle.net, "forward", spy)
    sampler(["a red bag"], [1])
    assert rows == [8, 8, 4, 4]


def test_a_prompt_is_encoded_once(bundle, monkeypatch):
    sampler = PairSampler(bundle, SETTINGS)
    encoded = []
    forward = sampler.bundle.encoders.text.forward

    def spy(prompts):
        encoded.append(list(prompts))
        return forward(prompts)

    monkeypatch.setattr(sampler.bundle.encoders.text, "forward", spy)
    first = sampler(["a red bag", "a red bag"], [1, 2])
    second = sampler(["a red bag", "a blue dress"], [1, 3])
    assert encoded == [["a red bag"] * 4, ["a blue dress"] * 4], "at the one batch shape"
    assert np.array_equal(first.image[0], second.image[0])


@pytest.mark.parametrize("solver", ["dpmsolver++3", "unipc2"])
def test_bfloat16_keeps_what_must_be_float32(bundle, monkeypatch, solver):
    settings = replace(SETTINGS, solver=solver)
    sampler = PairSampler(bundle, replace(settings, precision="bfloat16"))
    assert {value.dtype for value in sampler.bundle.net.state_dict().values()} == {torch.bfloat16}
    assert {value.dtype for value in bundle.net.state_dict().values()} == {torch.float32}, "the caller's is untouched"
    seen = {}
    embed = models.jodiffusion.timestep_embedding

    def spy(t, width):
        seen["sinusoid"] = embed(t, width)
        return seen["sinusoid"]

    monkeypatch.setattr(models.jodiffusion, "timestep_embedding", spy)
    step = sampler._scheduler.step

    def spy_step(output, time, state, **kwargs):
        seen.update(output=output, state=state)
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        seen.update(product=product, result=step(output, time, state, **kwargs)[0])
        return (seen["result"],)

    monkeypatch.setattr(sampler._scheduler, "step", spy_step)
    half = sampler(["a red bag"], [1])
    assert {name: value.dtype for name, value in seen.items()} == dict.fromkeys(
        ("sinusoid", "output", "state", "product", "result"), torch.float32
    )
    full = PairSampler(bundle, settings)(["a red bag"], [1])
    assert np.abs(half.image.astype(int) - full.image).mean() < 8


def test_known_parts_come_back(bundle):
    """Masks of images, and images of masks: the given part ends as its own reconstruction."""
    sampler = PairSampler(bundle, SETTINGS)
    encoders = sampler.bundle.encoders
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    masks = rng.integers(0, 9, (2, SIZE_PX, SIZE_PX), dtype=np.uint8)
    with torch.inference_mode():
        latent = image_to_latent(encoders.image_vae, torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
        expected = ((latent_to_image(encoders.image_vae, latent) + 1) * 127.5).round().permute(0, 2, 3, 1)
        logits = encoders.annotation_vae(torch.from_numpy(masks))
    labelled = sampler.masks_of(images, ["a", "b"], [1, 2])
    assert np.abs(labelled.image.astype(int) - expected.numpy()).max() <= 1
    drawn = sampler.images_of(masks, ["a", "b"], [1, 2])
    expected_mask, _ = classes_and_confidence(logits, encoders.labels, SETTINGS.confidence_threshold)
    assert (drawn.mask == expected_mask.numpy()).mean() > 0.999
    assert not np.array_equal(drawn.image[0], drawn.image[1])


@pytest.mark.parametrize(("objective", "exact"), [("v", True), ("flow", False)])
def test_given_parts_are_clean_where_training_showed_them_so(bundle, monkeypatch, objective, exact):
    own = JoDiffusion(replace(bundle.net.config, mask_time=True))
    diffusion = Diffusion(objective=objective, mask_time="independent")
    sampler = PairSampler(replace(bundle, net=own, diffusion=diffusion), SETTINGS)
    times = []
    forward = sampler.bundle.net.forward

    def spy(noisy, text, t_image, t_text, *t_mask):
        times.append((t_image[0].item(), *(time[0].item() for time in t_mask)))
        return forward(noisy, text, t_image, t_text, *t_mask)

    monkeypatch.setattr(sampler.bundle.net, "forward", spy)
    sampler.masks_of(np.zeros((1, SIZE_PX, SIZE_PX, 3), np.uint8), ["a"], [1])
    sampler.images_of(np.zeros((1, SIZE_PX, SIZE_PX), np.uint8), ["a"], [1])
    sampler(["a"], [1])
    assert [len(found) for found in times] == [1 + exact] * 6 + [1] * 3
    if exact:
        assert [found[0] for found in times[:3]] == [found[1] for found in times[3:6]] == [0, 0, 0]
        assert all(found[0] > 0 for found in times[3:6])


def test_half_a_pair_that_does_not_fit_is_refused(bundle):
    sampler = PairSampler(bundle, SETTINGS)
    images, masks = np.zeros((2, SIZE_PX, SIZE_PX, 3), np.uint8), np.zeros((2, SIZE_PX, SIZE_PX), np.uint8)
    with pytest.raises(ValueError, match="one row per prompt"):
        sampler.masks_of(images, ["a", "b", "c"], [1, 2, 3])
    with pytest.raises(ValueError, match="one row per prompt"):
        sampler.images_of(masks[:, :8], ["a", "b"], [1, 2])
    with pytest.raises(ValueError, match=r"ids \[77\] that label space 'garments' does not have"):
        sampler.images_of(masks + 77, ["a", "b"], [1, 2])


def test_a_student_goes_its_own_way_whether_settings_were_resolved_or_not(bundle):
    student = replace(bundle, student=Student(4, 5.0, "abc"))
    asked = SamplerSettings(batch_size=1, precision="float32")
    one, other = (
        PairSampler(student, settings)(["a red bag"], [1])
        for settings in (asked, asked.resolved(bundle.guidance, student.student))
    )
    np.testing.assert_array_equal(one.image, other.image)


def test_a_student_completes_no_halves(bundle):
    sampler = PairSampler(replace(bundle, student=Student(2, 5.0, "abc")), SamplerSettings(batch_size=4))
    with pytest.raises(ValueError, match="makes whole pairs alone"):
        sampler.images_of(np.ones((1, SIZE_PX, SIZE_PX), np.uint8), ["a red bag"], [1])
