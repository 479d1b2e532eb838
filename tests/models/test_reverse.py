"""The reverse process lands on the data, with any solver, guided where it is told to, around what is known."""

from __future__ import annotations

import pytest
import torch

from models.diffusion import Diffusion
from models.jodiffusion import JoDiffusion, Joint
from models.reverse import Known, SamplerSettings, Student, reverse_process, with_preset
from tests.models.fabricated import clean_pair
from tests.tiny import NET


@pytest.mark.parametrize("solver", ["ddim", "dpmsolver++2", "dpmsolver++3", "unipc2", "unipc3"])
@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_every_solver_lands_on_the_data_where_the_network_knows_it(objective, solver):
    clean, _ = clean_pair(2)
    diffusion = Diffusion(objective=objective, time_shift=3.0 if objective == "flow" else 1.0)

    def perfect(noisy, text, t_image, t_text):
        def answer(value, known):
            signal, noise = (weight.view(-1, *[1] * (value.ndim - 1)) for weight in diffusion.signal_and_noise(t_image))
            eps = (value - signal * known) / noise
            return diffusion.target(known, eps, t_image)

        return Joint(*(answer(value, known) for value, known in zip(noisy, clean, strict=True))), text

    start = Joint(*(torch.randn_like(value) for value in clean))
    settings = SamplerSettings(steps=12, guidance=1.0)
    found = reverse_process(
        perfect, diffusion.scheduler(solver), start, torch.zeros(2, 5, 12), settings, lambda: torch.empty(0)
    )
    for value, known in zip(found, clean, strict=True):
        torch.testing.assert_close(value, known, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("given", ["image", "mask"])
def test_a_known_part_is_held_clean_where_the_network_knows_its_time(given):
    clean, _ = clean_pair(2)
    diffusion = Diffusion(objective="v", mask_time="independent")
    start = Joint(*(torch.randn_like(part) for part in clean))
    is_known = Joint(
        *(torch.full_like(part[0], (name == "mask") == (given == "mask")) for name, part in clean._asdict().items())
    )
    known = Known(
        clean=torch.cat([part.flatten(1) for part in clean], dim=1),
        noise=torch.cat([part.flatten(1) for part in start], dim=1),
        is_known=torch.cat([part.flatten() for part in is_known]).bool(),
        diffusion=diffusion,
        held_clean=given,
    )
    times = []

    def spy(noisy, text, t_image, t_text, t_mask):
        times.append((t_image[0].item(), t_mask[0].item()))
        assert torch.equal(getattr(noisy, given), getattr(clean, given).repeat(2, *[1] * (clean.image.ndim - 1)))
        return noisy, text

    reverse_process(
        spy,
        diffusion.scheduler("dpmsolver++2"),
        start,
        torch.zeros(2, 5, 12),
        SamplerSettings(steps=3, guidance=2.0),
        lambda: torch.zeros(2, 5, 12),
        known,
    )
    own, other = (0, 1) if given == "image" else (1, 0)
    assert [pair[own] for pair in times] == [0, 0, 0]
    assert [pair[other] for pair in times] == sorted((pair[other] for pair in times), reverse=True) and times[0][other]


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_guidance_is_a_finite_number(wrong):
    with pytest.raises(ValueError, match="guidance is a finite number"):
        SamplerSettings(guidance=wrong)
    with pytest.raises(ValueError, match="above 0 and finite"):
        Diffusion(objective="flow", time_shift=wrong)


def test_unknown_solvers_and_precisions_are_refused():
    for wrong in ({"solver": "euler"}, {"precision": "float16"}, {"steps": 1000}, {"steps": 0}):
        with pytest.raises(ValueError, match="is not one of|steps lie between"):
            SamplerSettings(**wrong)


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
@pytest.mark.parametrize("solver", ["dpmsolver++2", "dpmsolver++3", "ddim"])
def test_the_step_loop_never_waits_for_the_device(objective, solver):
    """Meta tensors stand for a GPU's: they have no values that the host could read."""
    with torch.device("meta"):
        net = JoDiffusion(NET)
        start = Joint(torch.empty(2, 4, 4, 4), torch.empty(2, 1, 8), torch.empty(2, 4, 4, 4))
        text = torch.empty(2, 12, 16)
    settings, diffusion = SamplerSettings(steps=3, guidance=2.0, solver=solver), Diffusion(objective=objective)
    with torch.inference_mode():
        found = reverse_process(net, diffusion.scheduler(solver), start, text, settings, lambda: torch.empty_like(text))
    assert found.mask.is_meta and found.mask.shape == start.mask.shape


def test_guidance_on_an_interval_is_that_of_its_steps():
    settings = SamplerSettings(steps=10, guidance=2.0, guided_from=0.2, guided_to=0.5)
    assert [step for step in range(10) if settings.guided(step)] == [2, 3, 4]
    assert not any(SamplerSettings(steps=4, guidance=1.0).guided(step) for step in range(4))
    with pytest.raises(ValueError, match="guided_from"):
        SamplerSettings(guided_from=0.6, guided_to=0.5)


def test_a_preset_replaces_its_part_of_the_settings():
    fast = with_preset(SamplerSettings(steps=20, guidance=1.5, batch_size=4), "fast")
    assert (fast.steps, fast.solver, fast.guidance, fast.batch_size) == (12, "dpmsolver++2", 1.5, 4)
    assert sum(2 if fast.guided(step) else 1 for step in range(fast.steps)) == 18
    assert with_preset(SamplerSettings(), "faithful") == SamplerSettings(), "the paper's settings are the defaults"


def test_a_way_in_parts_is_the_whole_way():
    clean, _ = clean_pair(2)
    start = Joint(*(torch.randn_like(value) for value in clean))
    settings = SamplerSettings(steps=6, guidance=2.0, guided_to=0.5, solver="ddim")
    text, asked = torch.zeros(2, 5, 12), []

    def denoise(noisy, texts, t_image, t_text):
        asked.append((float(t_image[0]), len(texts)))
        return Joint(*(0.5 * value for value in noisy)), texts

    def walked(state, part=None):
        scheduler = Diffusion(objective="flow").scheduler("ddim")
        return reverse_process(denoise, scheduler, state, text, settings, lambda: torch.zeros(2, 5, 12), part=part)

    whole, asked_whole = walked(start), asked.copy()
    asked.clear()
    state = start
    for part in (range(0, 1), range(1, 4), range(4, 6)):
        state = walked(state, part)
    assert asked == asked_whole and [rows for _, rows in asked] == [4, 4, 4, 2, 2, 2]
    for value, wanted in zip(state, whole, strict=True):
        torch.testing.assert_close(value, wanted)


def test_a_student_is_sampled_as_it_was_taught():
    student = Student(steps=4, guidance=5.0, teacher="abc")
    settings = SamplerSettings(precision="float32", batch_size=3).resolved(1.0, student)
    assert (settings.steps, settings.solver, settings.guidance) == (4, "ddim", 1.0)
    assert (settings.precision, settings.batch_size) == ("float32", 3)
    assert settings.resolved(1.0, student) == settings, "its own way may be named"
    with pytest.raises(ValueError, match=r"guidance 5 built in.*leave out sampler.steps, sampler.guidance"):
        SamplerSettings(steps=20, guidance=3.0).resolved(1.0, student)
