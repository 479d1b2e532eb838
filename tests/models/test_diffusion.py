"""Noising and the joint loss follow their equations."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from models.diffusion import Diffusion, LossWeights, joint_loss
from models.draws import Draws
from models.jodiffusion import Joint
from tests.models.fabricated import clean_pair


def zeros(noisy, text, t_image, t_text):
    return Joint(*(torch.zeros_like(value) for value in noisy)), torch.zeros_like(text)


def test_epsilon_noising_equals_ddpm():
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    clean, noise, times = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8), torch.tensor([0, 10, 500, 900, 999])
    expected = scheduler.add_noise(clean, noise, times)
    torch.testing.assert_close(Diffusion().noised(clean, noise, times.float()), expected, atol=1e-5, rtol=1e-5)


def test_flow_is_a_straight_line_whose_velocity_is_the_target():
    flow = Diffusion(objective="flow")
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    early, late = (flow.noised(clean, noise, torch.full((2,), time)) for time in (200.0, 700.0))
    torch.testing.assert_close((late - early) / 0.5, flow.target(clean, noise, torch.zeros(2)))


def test_time_shift_moves_training_times_and_the_grid_alike():
    shift = 3.0
    plain, late = Diffusion(objective="flow"), Diffusion(objective="flow", time_shift=shift)
    times = plain.draw_times(Draws(0, 0, range(100))) / 1000
    expected = shift * times / (1 + (shift - 1) * times)
    torch.testing.assert_close(late.draw_times(Draws(0, 0, range(100))) / 1000, expected)
    grids = []
    for diffusion in (plain, late):
        scheduler = diffusion.scheduler("dpmsolver++2")
        scheduler.set_timesteps(20)
        grids.append(scheduler.sigmas)
    torch.testing.assert_close(grids[1], shift * grids[0] / (1 + (shift - 1) * grids[0]), atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="time_shift"):
        Diffusion(time_shift=2.0)


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
@pytest.mark.parametrize("text_noise", ["independent", "dropout"])
def test_loss_repeats_with_its_seed_and_names_its_parts(objective, text_noise):
    clean, text = clean_pair()
    diffusion = Diffusion(objective=objective, text_noise=text_noise)

    def loss(seed: int):
        return joint_loss(zeros, diffusion, clean, text, LossWeights(), Draws(seed, 0, range(4)))

    first, parts = loss(3)
    assert first == loss(3)[0] != loss(4)[0]
    assert set(parts) == {"image", "clip_image", "mask"} | ({"text"} if text_noise == "independent" else set())


def test_default_weights_give_the_papers_mean_over_all_numbers():
    clean, text = clean_pair()
    loss, parts = joint_loss(zeros, Diffusion(), clean, text, LossWeights(), Draws(0, 0, range(4)))
    sizes = {"image": 256, "clip_image": 16, "mask": 256, "text": 60}
    expected = sum(parts[name].squared.mean() * size for name, size in sizes.items()) / sum(sizes.values())
    torch.testing.assert_close(loss, expected)


def test_v_and_noisy_value_give_clean_value_and_noise_back():
    diffusion, times = Diffusion(objective="v"), torch.tensor([20.0, 500.0, 980.0])
    clean, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    noisy, v = diffusion.noised(clean, noise, times), diffusion.target(clean, noise, times)
    signal_weight, noise_weight = (weight.view(-1, 1, 1) for weight in diffusion.signal_and_noise(times))
    torch.testing.assert_close(signal_weight * noisy - noise_weight * v, clean)
    torch.testing.assert_close(noise_weight * noisy + signal_weight * v, noise)


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_min_snr_weighs_the_error_of_the_clean_value_alike_whatever_is_predicted(objective):
    diffusion, gamma = Diffusion(objective=objective), 5.0
    times = torch.tensor([50.0, 400.0, 900.0])
    signal_weight, noise_weight = (weight.view(-1, 1) for weight in diffusion.signal_and_noise(times))
    clean, noise, off = torch.randn(3, 6), torch.randn(3, 6), 0.1 * torch.randn(3, 6)
    noisy = diffusion.noised(clean, noise, times)
    wrong = {  # what a network predicts that takes the clean value for clean + off
        "epsilon": (noisy - signal_weight * (clean + off)) / noise_weight,
        "v": (signal_weight * noisy - (clean + off)) / noise_weight,
        "flow": (noisy - (clean + off)) / noise_weight,
    }[objective]
    squared = (wrong - diffusion.target(clean, noise, times)).square().mean(1)

    weighed = squared * diffusion.min_snr_weights(times, gamma)

    snr = (signal_weight / noise_weight).square()[:, 0]
    torch.testing.assert_close(weighed, snr.clamp(max=gamma) * off.square().mean(1), rtol=1e-3, atol=1e-6)


def test_min_snr_counts_each_pair_by_its_own_time():
    clean, text = clean_pair()
    losses = []
    for gamma in (0.0, 1e9):  # without a bound, epsilon at every time counts as it does unweighted
        weights = LossWeights(min_snr=gamma)
        loss, _ = joint_loss(zeros, Diffusion(), clean, text, weights, Draws(0, 0, range(4)))
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)


def test_dropped_text_is_noise_at_the_last_time():
    clean, text = clean_pair(64)
    seen: dict[str, torch.Tensor] = {}

    def spy(noisy, noisy_text, t_image, t_text):
        seen.update(text=noisy_text, times=t_text)
        return zeros(noisy, noisy_text, t_image, t_text)

    diffusion = Diffusion(text_noise="dropout", text_dropout=0.5)
    joint_loss(spy, diffusion, clean, text, LossWeights(), Draws(0, 0, range(64)))
    dropped = seen["times"] == 1000
    assert 10 < dropped.sum() < 54
    assert torch.equal(seen["text"][~dropped], text[~dropped])
    assert not torch.isclose(seen["text"][dropped], text[dropped]).all(-1).any()


def test_ddim_is_the_libraries_ddim():
    """DPM-Solver++ of order 1 is DDIM: the same step on the same grid."""
    diffusion = Diffusion()
    ours = diffusion.scheduler("ddim")
    ours.set_timesteps(10)
    theirs = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    theirs.set_timesteps(10)
    state, eps = torch.randn(2, 4), torch.randn(2, 4)
    first, second = ours.timesteps[:2]
    theirs.num_inference_steps = theirs.config.num_train_timesteps // int(first - second)
    expected = theirs.step(eps, int(first), state).prev_sample
    if int(first) - theirs.config.num_train_timesteps // theirs.num_inference_steps == int(second):
        torch.testing.assert_close(ours.step(eps, first, state).prev_sample, expected, atol=1e-4, rtol=1e-4)
    else:
        pytest.fail("the grids differ, so the steps cannot be compared")


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_independent_mask_times_noise_the_mask_alone_at_them(objective):
    clean, text = clean_pair(32)
    diffusion = Diffusion(objective=objective, text_noise="dropout", mask_time="independent")
    seen: dict[str, torch.Tensor] = {}

    def perfect(noisy, noisy_text, t_image, t_text, t_mask):
        seen.update(image=t_image, mask=t_mask)

        def prediction(value, known, times):
            signal, noise = (weight.view(-1, *[1] * (value.ndim - 1)) for weight in diffusion.signal_and_noise(times))
            return diffusion.target(known, (value - signal * known) / noise, times)

        at = Joint(t_image, t_image, t_mask)
        return Joint(*(prediction(*parts) for parts in zip(noisy, clean, at, strict=True))), noisy_text

    loss, _ = joint_loss(perfect, diffusion, clean, text, LossWeights(), Draws(0, 0, range(32)))
    assert loss < 1e-6
    assert not torch.isclose(seen["image"], seen["mask"]).all()


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_the_clean_value_is_what_a_right_prediction_amounts_to(objective):
    diffusion = Diffusion(objective=objective)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 3, 2, 2, generator=generator) for _ in range(2))
    times = torch.tensor([1.0, 300.0, 600.0, 900.0])
    noisy = diffusion.noised(clean, noise, times)
    found = diffusion.clean(noisy, diffusion.target(clean, noise, times), times)
    torch.testing.assert_close(found, clean, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("mask_time", ["shared", "independent"])
def test_a_picture_without_a_mask_teaches_the_picture_alone(mask_time):
    clean, text = clean_pair()
    diffusion = Diffusion(objective="flow", text_noise="dropout", mask_time=mask_time)
    seen: dict[str, torch.Tensor] = {}
    scale = torch.zeros(4, 1, 1, 1, requires_grad=True)

    def denoise(noisy, noisy_text, t_image, t_text, t_mask=None):
        seen.update(mask=noisy.mask, times=t_image if t_mask is None else t_mask)
        return Joint(noisy.image * 0, noisy.clip_image * 0, noisy.mask * scale), noisy_text

    def run(weight, masks=clean.mask):
        pairs = clean._replace(mask=masks)
        loss, errors = joint_loss(denoise, diffusion, pairs, text, LossWeights(), Draws(0, 0, range(4)), weight)
        (gradient,) = torch.autograd.grad(loss, scale)
        return loss.detach(), errors, gradient.flatten(), dict(seen)

    whole = run(None)
    ones = torch.ones(4, *clean.mask.shape[2:])
    assert torch.equal(run(ones)[0], whole[0])
    weight = ones * torch.tensor([1, 0, 1, 0]).view(4, 1, 1)

    loss, errors, gradient, shown = run(weight)
    other = run(weight, torch.where(weight.unsqueeze(1) > 0, clean.mask, 7.0))

    assert errors["mask"].squared.isnan().tolist() == [False, True, False, True]
    assert not errors["image"].squared.isnan().any() and loss < whole[0]
    assert (gradient != 0).tolist() == [True, False, True, False]
    assert torch.equal(shown["mask"], other[3]["mask"]) and torch.equal(loss, other[0]), "what stood there is not seen"
    assert torch.equal(shown["mask"][::2], whole[3]["mask"][::2])
    late = (shown["times"] == 1000).tolist()
    assert late == ([False, True, False, True] if mask_time == "independent" else [False] * 4)


def test_cells_of_no_weight_weigh_nothing_in_the_loss_of_the_mask():
    clean, text = clean_pair()
    weight = torch.ones(4, *clean.mask.shape[2:])
    weight[:, :, :4] = 0

    def error(masks, weight):
        def denoise(noisy, noisy_text, *times):
            return Joint(*(torch.zeros_like(one) for one in noisy)), noisy_text

        diffusion = Diffusion(objective="flow", text_noise="dropout")
        pairs = clean._replace(mask=masks)
        return joint_loss(denoise, diffusion, pairs, text, LossWeights(), Draws(0, 0, range(4)), weight)[1]["mask"]

    wrong = torch.where(weight.unsqueeze(1) > 0, clean.mask, clean.mask + 100)
    assert torch.equal(error(wrong, weight).squared, error(clean.mask, weight).squared)
    assert (error(clean.mask, weight).squared < error(clean.mask, None).squared).all(), "known cells weigh as ever"
