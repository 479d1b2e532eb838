"""The encoders around the joint network give what their libraries give, normalised as the network is trained on."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPImageProcessorPil

from models.frozen import (
    CLIP_MEAN,
    CLIP_STD,
    clip_image_embedding,
    clip_pixels,
    image_to_latent,
    latent_to_image,
)
from tests.tiny import NUM_TOKENS, SIZE_PX, tiny_encoders

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def encoders():
    return tiny_encoders()


def pictures(num: int, size_px: int = SIZE_PX) -> torch.Tensor:
    return torch.rand(num, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_prompts_are_padded_and_cut_to_one_length(encoders):
    text, long = encoders.text, "a red bag " * 20
    assert (text.num_tokens, text.width) == (NUM_TOKENS, 16)
    assert text.token_ids(["a", long]).shape == (2, NUM_TOKENS) and text(["a", long]).shape == (2, NUM_TOKENS, 16)
    short, cut = text.token_counts(["a red bag", long])
    assert short <= NUM_TOKENS < cut, "what would be cut can be told"
    assert text.token_counts([]) == []


def test_a_prompt_is_encoded_alike_alone_and_beside_others(encoders):
    together = encoders.text(["a red bag", "a blue dress"])
    torch.testing.assert_close(encoders.text(["a blue dress"])[0], together[1])
    assert not torch.allclose(together[0], together[1])


def test_pictures_are_normalised_as_clips_own_processor_does():
    bytes_ = torch.randint(0, 256, (1, 3, SIZE_PX, SIZE_PX), dtype=torch.uint8)
    own = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, image_mean=CLIP_MEAN, image_std=CLIP_STD)
    expected = own(images=bytes_[0].permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(clip_pixels(bytes_ / 127.5 - 1, SIZE_PX), expected, atol=1e-5, rtol=0)


def test_pictures_of_any_size_are_seen_at_the_size_of_the_tower(encoders):
    plain = torch.full((1, 3, 40, 24), 0.5)
    found = clip_pixels(plain, SIZE_PX)
    assert found.shape == (1, 3, SIZE_PX, SIZE_PX)
    torch.testing.assert_close(found, clip_pixels(plain[:, :, :SIZE_PX, :SIZE_PX], SIZE_PX))
    assert clip_image_embedding(encoders.clip_image, pictures(2, 40)).shape == (2, 1, 8)


def test_latents_are_normalised_by_channel_where_it_is_known_and_by_one_factor_where_not(encoders):
    vae, image = encoders.image_vae, pictures(2)
    raw = vae.encode(image).latent_dist.mean
    torch.testing.assert_close(image_to_latent(vae, image), raw * vae.config.scaling_factor)
    mean, std = [1.0, 2.0, 3.0, 4.0], [0.5, 1.0, 2.0, 4.0]
    before = dict(vae.config)
    vae.register_to_config(latents_mean=mean, latents_std=std)
    try:
        found = image_to_latent(vae, image)
        torch.testing.assert_close(found, (raw - torch.tensor(mean).view(4, 1, 1)) / torch.tensor(std).view(4, 1, 1))
        torch.testing.assert_close(latent_to_image(vae, found), vae.decode(raw).sample.clamp(-1, 1), atol=1e-5, rtol=0)
    finally:
        vae.register_to_config(**{name: before[name] for name in ("latents_mean", "latents_std")})


def test_pictures_stay_within_their_range(encoders):
    found = latent_to_image(encoders.image_vae, 1e3 * torch.randn(1, 4, 4, 4))
    assert found.shape == (1, 3, SIZE_PX, SIZE_PX) and found.abs().max() <= 1
