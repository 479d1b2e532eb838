"""Masks that a segmenter draws anew while it learns: whose, from when on, with which classes; and it can be stopped."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from models.labels import GARMENTS
from models.segmenters import SmallUNet
from pipeline.training.feed import to_tensors
from pipeline.training.loop import train
from pipeline.training.parallel import Group
from pipeline.training.state import TrainState
from pipeline.training.tasks.relabelling import Relabelling, Teacher, transported
from pipeline.training.tasks.segmenter import SegmenterTask
from tests.pipeline.training.tasks.fabricated import learn, recipe

VOID = GARMENTS.ignore_index


def task(*, held: bool = True, own_steps: int = 0) -> SegmenterTask:
    return SegmenterTask(GARMENTS, "unet_small", 4, relabelling=Relabelling(held, own_steps, VOID))


def drawn(chosen, net, batch, step=0):
    """The masks of a batch at a step."""
    return chosen.relabelling(net, batch, step)["mask"]


@pytest.fixture
def origins(rows):
    """Every other row is a generator's."""
    return {**rows, "origin": np.array(["real", "synthetic"] * 12, object)}


def sure_of(net, one):
    """Lets a segmenter see one class everywhere."""
    with torch.no_grad():
        net.get_parameter("head.weight").zero_()
        net.get_parameter("head.bias").zero_()
        net.get_parameter("head.bias")[one] = 20.0


def test_rare_classes_win_what_is_in_doubt():
    shares = torch.tensor([0.9, 0.1]).repeat(10, 1)
    shares[0] = torch.tensor([0.51, 0.49])
    shares[1] = torch.tensor([0.05, 0.95])
    found = transported(shares.T[None, :, :, None], torch.ones(1, 2, dtype=torch.bool))[0, :, :, 0].T
    torch.testing.assert_close(found.sum(1), torch.ones(10))
    assert found.argmax(1).tolist() == [1, 1, *[0] * 8], "the first pixel is moved, sure ones stay"


def test_no_class_gets_anything_that_a_picture_may_not_hold():
    shares = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    allowed = torch.tensor([[True, False, True, False], [True] * 4])
    found = transported(shares, allowed)
    assert (found[0, [1, 3]] == 0).all() and found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(2, 3, 3))


def test_masks_of_people_stay_and_others_are_drawn_anew_from_a_step_on(origins):
    chosen = task(held=False, own_steps=1)
    batch = to_tensors(chosen.decode(origins))
    net = chosen.build()
    sure_of(net, 3)
    first = drawn(chosen, net, batch, 0)
    assert torch.equal(first, batch["mask"]), "until then they are those that are there"
    second = drawn(chosen, net, batch, 1)
    assert torch.equal(second[::2], batch["mask"][::2]), "people drew these"
    assert (second[1::2] == 3).all()


def test_held_to_the_classes_of_the_mask_that_was_there(origins):
    chosen = task(held=True)
    batch = to_tensors(chosen.decode(origins))
    net = chosen.build()
    sure_of(net, 3)
    found = drawn(chosen, net, batch, 0)
    for old, new in zip(batch["mask"][1::2], found[1::2], strict=True):
        assert set(new.unique().tolist()) <= {*old.unique().tolist(), VOID}


def test_what_the_teacher_is_not_sure_of_is_void(origins):
    chosen = task(held=False)
    net = chosen.build()
    with torch.no_grad():
        for one in (net.get_parameter("head.weight"), net.get_parameter("head.bias")):
            one.zero_()
    batch = to_tensors(chosen.decode(origins))
    assert (drawn(chosen, net, batch, 0)[1::2] == VOID).all()


def test_the_teacher_follows_once_a_step_however_often_it_is_asked():
    net = SmallUNet(9, 4)
    teacher = net.teacher = Teacher(net)
    weight, mean = net.get_parameter("head.bias"), teacher.net.get_parameter("head.bias")
    with torch.no_grad():
        before = weight.clone()
        teacher.follow(net, 0)
        weight.fill_(1.0)
        teacher.follow(net, 1)
        teacher.follow(net, 1)
        torch.testing.assert_close(mean, (before + 1) / 2)
    net.train()
    assert not teacher.net.training


def test_a_segmenter_learns_and_is_saved_without_its_teacher(origins, tmp_path):
    chosen = task(own_steps=5)
    assert "miou" in learn(chosen, origins, tmp_path).metrics
    loaded = SegmenterTask(GARMENTS, "unet_small", 4).load(tmp_path)
    assert not any(name.startswith("teacher") for name, _ in loaded.named_parameters())


def test_statistics_are_counted_with_the_masks_that_are_there(origins):
    chosen = task()
    batch = to_tensors(chosen.decode(origins))
    net = chosen.build()
    with torch.no_grad():
        assert torch.equal(drawn(chosen, net, batch, 0), batch["mask"])


def test_a_training_that_was_stopped_goes_on_as_if_it_were_not(origins):
    chosen, settings = task(own_steps=2), recipe(8)
    data = to_tensors(chosen.decode(origins))
    batch = {name: values[:8] for name, values in data.items()}

    def run(state, steps):
        for _ in itertools.islice(train(chosen, state.net, state, itertools.repeat(batch), settings), steps):
            pass

    def fresh():
        torch.manual_seed(0)
        return TrainState(chosen.build(), settings)

    whole, begun, gone_on = fresh(), fresh(), fresh()
    run(whole, 8)
    run(begun, 4)
    gone_on.restore(begun.snapshot(Group()), where="here")
    gone_on.step = 4
    run(gone_on, 4)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, gone_on.net.state_dict()[name]), name
