"""A segmenter of every kind learns in the loop, is judged at one scale and at several, and is read back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.draws import Draws
from models.labels import GARMENTS
from models.segmenters import build_segmenter
from pipeline.base.errors import ConfigError
from pipeline.training.loop import train
from pipeline.training.needs import training_needs
from pipeline.training.parallel import Group
from pipeline.training.state import TrainState
from pipeline.training.tasks.augment import Augmentation
from pipeline.training.tasks.recipes import recipe_of
from pipeline.training.tasks.segmenter import SegmenterTask, averaged_scores

TINY = ("deeplabv3_tiny", "mask2former_tiny", "segformer_tiny")
CROP = Augmentation(crop_px=32)


def scenes(rows: int = 4, side: int = 40):
    """Blocks of 20 pixels, whose brightness says the class."""
    ids = torch.randint(0, 3, (rows, 2, 2), generator=torch.Generator().manual_seed(0))
    mask = ids.repeat_interleave(side // 2, 1).repeat_interleave(side // 2, 2).to(torch.uint8)
    image = (mask * 100)[..., None].expand(-1, -1, -1, 3).contiguous()
    mask[:, :4] = GARMENTS.ignore_index
    return {"image": image, "mask": mask}


def task_of(name, **changed) -> SegmenterTask:
    return SegmenterTask(GARMENTS, name, 4, augmentation=CROP, **changed)


@pytest.mark.parametrize("name", TINY)
def test_it_learns_is_judged_and_read_back(name, tmp_path):
    task, data = task_of(name, multi_scale=True), scenes()
    settings = recipe_of(name).optimisation(4 * 8, batch_size=4, learning_rate=2e-3)
    torch.manual_seed(0)
    net = task.build()
    state = TrainState(net, settings)
    reports = list(train(task, net, state, iter([data] * 8), settings))
    assert all(torch.isfinite(report.losses["loss"]).all() for report in reports)
    first, last = (sum(float(one.losses["loss"][0]) for one in part) for part in (reports[:3], reports[-3:]))
    assert last < first
    with torch.no_grad():
        evaluation = task.evaluate(state.average, data)
    assert {"miou", "miou_multi_scale", "pixel_accuracy"} <= evaluation.metrics.keys()
    task.save(state.average, data, tmp_path)
    assert (task.predict(task.load(tmp_path), data["image"]) == task.predict(state.average, data["image"])).all()


@pytest.mark.parametrize("name", TINY)
def test_a_training_that_was_stopped_goes_on_as_if_it_were_not(name):
    """Dropout, paths that are dropped, points, scales and colours: all follow from the step."""
    task, data = task_of(name), scenes()
    settings = recipe_of(name).optimisation(4 * 4, batch_size=4)

    def after(*parts: int) -> torch.nn.Module:
        torch.manual_seed(0)
        state = TrainState(task.build(), settings)
        for steps in parts:
            torch.manual_seed(steps)  # another process
            fresh = TrainState(task.build(), settings)
            if state.step:
                fresh.restore(state.snapshot(Group()), where="here")
            else:
                fresh.net.load_state_dict(state.net.state_dict())
                fresh.average.load_state_dict(state.average.state_dict())
            fresh.step, state = state.step, fresh
            reports = train(task, state.net, state, iter([data] * steps), settings)
            for _ in range(steps):
                next(reports)
        return state.net

    for one, other in zip(after(4).parameters(), after(1, 3).parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_several_scales_are_the_mean_over_views():
    torch.manual_seed(0)
    net: Any = build_segmenter("unet_small", 3, 4).eval()
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        found = averaged_scores(net, image)
        torch.testing.assert_close(found.sum(1), torch.ones(1, 32, 48))
        torch.testing.assert_close(found.flip(-1), averaged_scores(net, image.flip(-1)), atol=1e-4, rtol=0)
        flat: Any = build_segmenter("unet_small", 3, 4).eval()
        torch.nn.init.zeros_(flat.head.weight)
        expected = flat(image)[:, :, :1, :1].softmax(1).expand(-1, -1, 32, 48)
        torch.testing.assert_close(averaged_scores(flat, image), expected)


def test_without_augmentation_pictures_are_mirrored_and_recoloured_alone():
    data = scenes()
    image, mask = SegmenterTask(GARMENTS, "unet_small", 4).varied(data, Draws(0, 0, range(4)))
    assert image.shape == (4, 3, 40, 40) and mask.dtype == torch.uint8
    plain = SegmenterTask(GARMENTS, "segformer_tiny", 4).varied(data, Draws(0, 0, range(4)))
    assert torch.equal(plain[0], image) and torch.equal(plain[1], mask)


def test_deeplab_cannot_learn_from_one_picture():
    task, data = task_of("deeplabv3_tiny"), scenes(1)
    with pytest.raises(ConfigError, match="learns from two pictures at a time or more"):
        task.loss(task.build().train(), data, Draws(0, 0, range(1)))


@pytest.mark.parametrize("name", TINY)
def test_what_a_training_takes_is_worked_out_without_memory(name):
    example = {key: value[:1] for key, value in scenes().items()}
    needs = training_needs(task_of(name), recipe_of(name).optimisation(100), example)
    assert needs.parameters > 10_000
    assert ("activations" in needs.memory) == (name != "mask2former_tiny")  # which asks where its masks are
