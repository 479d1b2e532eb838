"""A student that predicts its target arrives where its teacher does, and steps where its teacher steps."""

from __future__ import annotations

import pytest
import torch

from models.diffusion import Diffusion
from models.distillation import Way, student_diffusion
from models.jodiffusion import Joint
from models.reverse import Student, exact_times, reverse_process
from tests.models.fabricated import clean_pair

TEACHERS = [Diffusion(), Diffusion(objective="v"), Diffusion(objective="flow", time_shift=3.0)]


def test_only_a_student_of_a_network_that_predicts_noise_predicts_something_else():
    assert [student_diffusion(one).objective for one in TEACHERS] == ["v", "v", "flow"]
    assert student_diffusion(TEACHERS[2]) == TEACHERS[2]


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda one: one.objective)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_step_that_predicts_its_target_arrives_where_it_should(teacher, steps):
    diffusion, (before, _), (after, _) = student_diffusion(teacher), clean_pair(2), clean_pair(2)
    after = Joint(*(value + 0.5 for value in after))
    way = Way.of(diffusion, steps)
    for step in range(steps):
        target = Joint(*(way.target(*values, step) for values in zip(before, after, strict=True)))
        times: list[list[float]] = []

        def knowing(noisy, text, t_image, t_text, told=target, times=times):
            times.append(t_image.tolist())
            return told, text

        settings = Student(steps, 2.0, "").settings()
        scheduler, text = diffusion.scheduler(settings.solver), torch.zeros(2, 5, 12)
        part = range(step, step + 1)
        found = reverse_process(knowing, scheduler, before, text, settings, lambda: torch.empty(0), part=part)
        for value, wanted in zip(found, after, strict=True):
            torch.testing.assert_close(value, wanted, atol=2e-4, rtol=2e-4)
        assert times == [[float(way.times[step])] * 2], "asked once"


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda one: one.objective)
@pytest.mark.parametrize(("steps", "each"), [(1, 8), (2, 7), (4, 3), (4, 4), (5, 3), (8, 2)])
def test_a_teacher_of_several_times_the_steps_comes_by_the_times_of_its_student(teacher, steps, each):
    scheduler = teacher.scheduler("dpmsolver++2")
    scheduler.set_timesteps(steps * each)
    torch.testing.assert_close(exact_times(scheduler)[::each], Way.of(student_diffusion(teacher), steps).times)
