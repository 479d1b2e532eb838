"""The joint network and its guided sampling loop compute what the reference computes."""

from dataclasses import replace

import pytest
import torch

from models.diffusion import Diffusion
from models.jodiffusion import JoDiffusion, JoDiffusionConfig, Joint
from models.reverse import SamplerSettings, reverse_process
from tests.models import golden


@pytest.fixture(scope="module")
def reference():
    metadata, weights, tensors = golden.read("joint_uvit")
    config = metadata["config"]
    net = JoDiffusion(
        JoDiffusionConfig(
            latent_size=config["sample_size"],
            num_heads=config["num_attention_heads"],
            head_width=config["attention_head_dim"],
            num_layers=config["num_layers"],
            num_text_tokens=config["num_text_tokens"],
            text_width=config["text_dim"],
            text_bottleneck=config["inner_text_dim"],
            clip_image_width=config["clip_img_dim"],
        )
    ).eval()
    # The reference creates this layer and never uses it.
    net.load_state_dict({name: value for name, value in weights.items() if "pos_embed.proj" not in name})
    return net, metadata["loop"], tensors


def start(tensors: dict[str, torch.Tensor]) -> Joint:
    return Joint(tensors["in.image_latent"], tensors["in.clip_image"], tensors["in.mask_latent"])


@torch.no_grad()
def test_forward_pass_equals_the_reference(reference):
    net, _, tensors = reference
    prediction, text = net(start(tensors), tensors["in.text"], tensors["in.t_image"], tensors["in.t_text"])
    for found, name in (
        (prediction.image, "image_latent"),
        (prediction.clip_image, "clip_image"),
        (prediction.mask, "mask_latent"),
        (text, "text"),
    ):
        torch.testing.assert_close(found, tensors[f"out.{name}"], atol=1e-5, rtol=0)


def test_forward_pass_is_the_same_with_and_without_gradients(reference):
    net, _, tensors = reference
    arguments = (start(tensors), tensors["in.text"], tensors["in.t_image"], tensors["in.t_text"])
    with torch.no_grad():
        without, _ = net(*arguments)
    with_gradients, _ = net(*arguments)
    torch.testing.assert_close(with_gradients.mask, without.mask, atol=1e-5, rtol=0)


@torch.no_grad()
def test_guided_loop_equals_the_reference(reference):
    net, loop, tensors = reference
    assert loop["solver_order"] == 3
    scheduler = Diffusion(beta_start=loop["beta_start"], beta_end=loop["beta_end"]).scheduler("dpmsolver++3")
    noise = iter(tensors["loop.uncond_text"])
    latents = reverse_process(
        net,
        scheduler,
        start(tensors),
        tensors["in.text"],
        SamplerSettings(steps=loop["steps"], guidance=loop["guidance_scale"]),
        lambda: next(noise),
    )
    assert scheduler.timesteps.tolist() == tensors["loop.timesteps"].tolist()
    for found, name in (
        (latents.image, "image_latent"),
        (latents.clip_image, "clip_image"),
        (latents.mask, "mask_latent"),
    ):
        # 50 evaluations long: processors round differently, and cells near 0 have no digits to spare.
        torch.testing.assert_close(found, tensors[f"loop.{name}"], atol=1e-4, rtol=1e-3)


def test_published_size():
    with torch.device("meta"):
        net = JoDiffusion(JoDiffusionConfig())
    unused_patch_layer = 1536 * 4 * 2 * 2 + 1536
    assert sum(parameter.numel() for parameter in net.parameters()) + unused_patch_layer == 954_258_336
    assert len(net.state_dict()) + 2 == 490


def test_every_parameter_gets_a_gradient():
    config = JoDiffusionConfig(
        latent_size=4,
        num_heads=2,
        head_width=8,
        num_layers=2,
        num_text_tokens=3,
        text_width=6,
        text_bottleneck=5,
        clip_image_width=7,
        pre_norm=True,
        shared_positions=True,
    )
    net = JoDiffusion(config)
    noisy = Joint(torch.randn(2, 4, 4, 4), torch.randn(2, 1, 7), torch.randn(2, 4, 4, 4))
    prediction, text = net(noisy, torch.randn(2, 3, 6), torch.rand(2) * 1000, torch.zeros(2))
    (prediction.image.sum() + prediction.mask.sum() + prediction.clip_image.sum() + text.sum()).backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


SMALL = JoDiffusionConfig(
    latent_size=4,
    num_heads=2,
    head_width=8,
    num_layers=2,
    num_text_tokens=3,
    text_width=6,
    text_bottleneck=5,
    clip_image_width=7,
)


def answer(net: JoDiffusion, *t_mask: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 4, 4, 4), (2, 1, 7), (2, 4, 4, 4), (2, 3, 6))
    image, clip_image, mask, text = (torch.randn(size, generator=generator) for size in sizes)
    prediction, _ = net(Joint(image, clip_image, mask), text, torch.full((2,), 400.0), torch.zeros(2), *t_mask)
    return prediction.mask


@torch.no_grad()
def test_a_time_of_the_mask_is_one_token_more_and_matters():
    plain, own = JoDiffusion(SMALL), JoDiffusion(replace(SMALL, mask_time=True))
    assert set(plain.state_dict()) == set(own.state_dict())
    assert own.pos_embed.shape[1] == plain.pos_embed.shape[1] + 1
    assert torch.equal(answer(own), answer(own, torch.full((2,), 400.0))), "the image's, unless it is given"
    assert not torch.allclose(answer(own), answer(own, torch.zeros(2)), atol=1e-4)


def test_a_network_without_a_time_of_the_mask_refuses_one():
    with pytest.raises(ValueError, match="mask_time"):
        answer(JoDiffusion(SMALL), torch.zeros(2))


@torch.no_grad()
def test_tokens_of_text_that_are_padding_count_like_others(reference):
    """So none can be left out: no mask tells the network which they are, and it was trained with them."""
    net, _, tensors = reference
    noisy, text = start(tensors), tensors["in.text"]
    times = torch.full((len(text),), 500.0)
    other = text.clone()
    other[:, -1] += 1
    (one, _), (two, _) = (net(noisy, given, times, torch.zeros_like(times)) for given in (text, other))
    for name in Joint._fields:
        assert not torch.allclose(getattr(one, name), getattr(two, name), atol=1e-4), name
