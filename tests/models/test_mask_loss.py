"""The loss of Mask2Former against a slow one of plain loops and against the published one; and what nobody knows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as published

from models.mask_loss import MaskLoss, Targets, match

LAYERS, QUERIES, CLASSES = 2, 5, 3
LOSS = MaskLoss(num_points=40)


def case(seed: int = 0, pictures: int = 2, side: int = 12, cells: int = 6):
    """Logits and truth; every class occurs somewhere."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(LAYERS, pictures, QUERIES, CLASSES + 1, generator=generator)
    masks = 3 * torch.randn(LAYERS, pictures, QUERIES, cells, cells, generator=generator)
    truth = torch.randint(0, CLASSES, (pictures, side // 4, side // 4), generator=generator)
    return classes, masks, truth.repeat_interleave(4, 1).repeat_interleave(4, 2)


def interpolated(picture: np.ndarray, x: float, y: float) -> float:
    """Bilinear between centres of pixels; nothing is outside."""
    height, width = picture.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = 0.0
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += picture[i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def slow_pair(prediction: np.ndarray, target: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Mask and dice terms of one prediction and one target at some points."""
    surprise = both = mine = yours = 0.0
    for x, y in points:
        p, t = sigmoid(interpolated(prediction, x, y)), interpolated(target, x, y)
        surprise -= t * math.log(p) + (1 - t) * math.log(1 - p)
        both, mine, yours = both + p * t, mine + p, yours + t
    return surprise / len(points), 1 - (2 * both + 1) / (mine + yours + 1)


def slow_loss(
    classes: torch.Tensor, masks: torch.Tensor, truth: torch.Tensor, seeds: list[int], loss: MaskLoss
) -> float:
    """The whole loss in float64 and plain loops, where all is known; it draws the points that ours draws."""
    total, num_points = 0.0, loss.num_points
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    ids = [sorted(set(one.flatten().tolist())) for one in truth]
    targets = [[(one == k).double().numpy() for k in found] for one, found in zip(truth, ids, strict=True)]
    num_masks = sum(map(len, ids))
    pairs = {}
    for row, generator in enumerate(generators):
        points = torch.rand(LAYERS, num_points, 2, generator=generator).double().numpy()
        for layer in range(LAYERS):
            chance = classes[layer, row].double().softmax(-1).numpy()
            cost = np.zeros((QUERIES, len(ids[row])))
            for query in range(QUERIES):
                for number, target in enumerate(targets[row]):
                    surprise, dice = slow_pair(masks[layer, row, query].double().numpy(), target, points[layer])
                    cost[query, number] = 5 * surprise + 5 * dice - 2 * chance[query, ids[row][number]]
            pairs[layer, row] = list(zip(*linear_sum_assignment(cost), strict=True))
    for row, generator in enumerate(generators):
        chosen = [(layer, *pair) for layer in range(LAYERS) for pair in pairs[layer, row]]
        drawn = torch.rand(len(chosen), 3 * num_points, 2, generator=generator).double().numpy()
        num_important = num_points * 3 // 4
        rest = torch.rand(len(chosen), num_points - num_important, 2, generator=generator).double().numpy()
        for (layer, query, number), candidates, others in zip(chosen, drawn, rest, strict=True):
            prediction = masks[layer, row, query].double().numpy()
            doubt = [abs(interpolated(prediction, x, y)) for x, y in candidates]
            points = np.concatenate([candidates[np.argsort(doubt)[:num_important]], others])
            surprise, dice = slow_pair(prediction, targets[row][number], points)
            total += (5 * surprise + 5 * dice) / num_masks
    for layer in range(LAYERS):
        found = weights = 0.0
        for row in range(len(truth)):
            logs = classes[layer, row].double().log_softmax(-1).numpy()
            wanted = {int(query): ids[row][number] for query, number in pairs[layer, row]}
            for query in range(QUERIES):
                weight = 1.0 if query in wanted else 0.1
                found, weights = found - weight * logs[query, wanted.get(query, CLASSES)], weights + weight
        total += 2 * found / weights
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_what_plain_loops_say(seed):
    classes, masks, truth = case(seed)
    expected = slow_loss(classes, masks, truth, [3, 4], LOSS)
    assert LOSS(classes, masks, truth, 255, [3, 4]).item() == pytest.approx(expected, rel=1e-5)


def test_it_is_the_published_one_where_all_is_known(monkeypatch):
    classes, masks, truth = case(2, pictures=1)
    classes, masks = classes[:1], masks[:1]
    drawn = []

    def recorded(*shape, generator=None, device=None):
        drawn.append(torch.empty(shape).uniform_(generator=generator))
        return drawn[-1]

    monkeypatch.setattr(torch, "rand", recorded)
    ours = LOSS(classes, masks, truth, 255, [5])
    replayed = iter(drawn)
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: next(replayed).reshape(shape))
    config = Mask2FormerConfig(num_labels=CLASSES, train_num_points=LOSS.num_points)
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    criterion = published.Mask2FormerLoss(config, weights)
    ids = truth[0].unique()
    parts = criterion(masks[0], classes[0], [(truth == ids[:, None, None]).float()], [ids])
    torch.testing.assert_close(ours, sum(weights[name] * part for name, part in parts.items()))


def with_a_void(classes, masks, truth):
    """Predictions as fine as the truth, and a corner and a stripe that nobody knows."""
    masks = torch.nn.functional.interpolate(masks.flatten(0, 1), truth.shape[-2:], mode="bilinear").unflatten(
        0, (LAYERS, -1)
    )
    truth = truth.clone()
    truth[:, :5, :4] = truth[:, 8] = 255
    return classes, masks, truth


def test_unknown_pixels_are_in_no_term_and_change_no_matching():
    classes, masks, truth = with_a_void(*case())
    wild = torch.where((truth == 255)[:, None], -50 * masks.sign(), masks)
    before, after = (LOSS(classes, one, truth, 255, [1, 2]) for one in (masks, wild))
    assert before == after
    target = Targets.of(truth[0].int(), 255)
    costs = [
        LOSS.matching_cost(classes[:, 0], one[:, 0], target, torch.Generator().manual_seed(1)) for one in (masks, wild)
    ]
    assert torch.equal(*costs)
    assert all(map(torch.equal, match(costs[0]), match(costs[1])))
    assert LOSS(classes, wild, torch.where(truth == 255, 0, truth), 255, [1, 2]) > after  # as if they were negatives


def test_unknown_pixels_get_no_gradient_and_all_is_finite():
    classes, masks, truth = with_a_void(*case())
    masks.requires_grad_()
    LOSS(classes.requires_grad_(), masks, truth, 255, [1, 2]).backward()
    void = (truth == 255)[None, :, None].expand_as(masks)
    assert not masks.grad[void].any() and masks.grad[~void].any()
    assert masks.grad.isfinite().all() and classes.grad.isfinite().all()


def test_a_picture_without_any_object_teaches_nothing():
    classes, masks, truth = case()
    alone = LOSS(classes[:, :1], masks[:, :1], truth[:1], 255, [1])
    truth[1] = 255
    classes.requires_grad_()
    both = LOSS(classes, masks.requires_grad_(), truth, 255, [1, 2])
    torch.testing.assert_close(both, alone)
    both.backward()
    assert not classes.grad[:, 1].any() and not masks.grad[:, 1].any()
    nothing = LOSS(classes, masks, torch.full_like(truth, 255), 255, [1, 2])
    assert nothing == 0 and torch.autograd.grad(nothing, [classes, masks])[0].isfinite().all()


def test_more_classes_than_queries_and_predictions_that_broke():
    classes, masks, truth = case()
    assert LOSS(classes[:, :, :2], masks[:, :, :2], truth, 255, [1, 2]).isfinite()
    cost = torch.full((1, 3, 2), torch.nan)
    cost[0, 1] = 0.0
    queries, chosen = match(cost)
    assert queries.shape == chosen.shape == (1, 2) and 1 in queries


def test_points_come_from_a_seed_for_each_picture():
    classes, masks, truth = case()
    again = [LOSS(classes, masks, truth, 255, seeds) for seeds in ([1, 2], [1, 2], [1, 3])]
    assert again[0] == again[1] != again[2]
    swapped = LOSS(classes.flip(1), masks.flip(1), truth.flip(0), 255, [2, 1])
    torch.testing.assert_close(swapped, again[0])
    assert LOSS(classes, masks, truth, 255) != LOSS(classes, masks, truth, 255)
