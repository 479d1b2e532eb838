"""Scores of masks, on masks so small that all can be worked out by hand, and against counting pixel by pixel."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from pipeline.evaluation import metrics
from pipeline.evaluation.metrics import (
    boundary_iou,
    boundary_pixels,
    class_ious,
    confusion_matrix,
    mean_and_spread,
    mean_iou,
    pixel_accuracy,
)

IGNORED = 255
TRUTH = np.array([[0, 0, 1, 1], [0, 2, 2, IGNORED], [0, 1, IGNORED, 2]], np.uint8)
PREDICTED = np.array([[0, 1, 1, 1], [0, 2, IGNORED, 2], [2, 0, IGNORED, IGNORED]], np.uint8)
CONFUSION = np.array([[2, 1, 1, 0], [1, 2, 0, 0], [0, 0, 1, 2]])
"""Of the two, worked out by hand: true classes down, predicted ones across, predicted as ignored last."""


def counted(truth: np.ndarray, predicted: np.ndarray, num_outputs: int) -> np.ndarray:
    """The confusion matrix, one pixel after the other."""
    matrix = np.zeros((num_outputs, num_outputs + 1), np.int64)
    for true, seen in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if true != IGNORED:
            matrix[true, num_outputs if seen == IGNORED else seen] += 1
    return matrix


def iou_by_sets(truth: np.ndarray, predicted: np.ndarray, class_id: int) -> float:
    """Intersection over union of the pixels of a class, as sets, among the known pixels."""
    known = {place for place in np.ndindex(truth.shape) if truth[place] != IGNORED}
    true = {place for place in known if truth[place] == class_id}
    seen = {place for place in known if predicted[place] == class_id}
    return len(true & seen) / len(true | seen) if true else math.nan


def test_a_confusion_matrix_worked_out_by_hand():
    matrix = confusion_matrix(TRUTH, PREDICTED, 3, IGNORED)
    assert matrix.tolist() == CONFUSION.tolist()
    assert matrix.sum() == (TRUTH != IGNORED).sum(), "each known pixel counts once, each ignored one never"


def test_scores_worked_out_by_hand():
    np.testing.assert_allclose(class_ious(CONFUSION), [2 / 5, 2 / 4, 1 / 4])
    assert mean_iou(CONFUSION) == pytest.approx((2 / 5 + 2 / 4 + 1 / 4) / 3)
    assert pixel_accuracy(CONFUSION) == pytest.approx(5 / 10), "pixels predicted as ignored are misses"


def test_a_class_that_does_not_occur_has_no_score_so_that_networks_are_compared_over_the_same_classes():
    truth = np.array([0, 0, 1, 1])
    one, other = (confusion_matrix(truth, np.array(seen), 4, IGNORED) for seen in ([0, 3, 1, 1], [0, 1, 1, 1]))
    np.testing.assert_array_equal(class_ious(one), [1 / 2, 1, np.nan, np.nan])
    assert mean_iou(one) == pytest.approx((1 / 2 + 1) / 2), "what is predicted wrongly is missed elsewhere"
    np.testing.assert_array_equal(np.isnan(class_ious(one)), np.isnan(class_ious(other)))
    counts = boundary_pixels(np.zeros((1, 8, 8), int), np.tri(8, dtype=int)[None], 2, IGNORED)
    assert counts[0].all() and not counts[1].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("num_outputs", [1, 2, 9, 200])
def test_scores_are_those_of_counting_pixel_by_pixel(num_outputs, dtype):
    numbers = np.random.default_rng(num_outputs)
    # Few ids, so that classes are left out; many pixels of both are ignored.
    truth, predicted = (
        numbers.choice([*numbers.integers(0, num_outputs, 6), IGNORED], (3, 17, 11)).astype(dtype) for _ in range(2)
    )

    matrix = confusion_matrix(truth, predicted, num_outputs, IGNORED)

    assert matrix.tolist() == counted(truth, predicted, num_outputs).tolist()
    wanted = [iou_by_sets(truth, predicted, class_id) for class_id in range(num_outputs)]
    np.testing.assert_allclose(class_ious(matrix), wanted)
    assert mean_iou(matrix) == pytest.approx(np.nanmean(wanted))
    assert pixel_accuracy(matrix) == pytest.approx((truth == predicted)[truth != IGNORED].mean())


def test_whole_test_sets_are_counted_a_part_at_a_time(monkeypatch):
    generator = np.random.default_rng(0)
    truth, predicted = (generator.integers(0, 5, (7, 250, 400)).astype(np.uint8) for _ in range(2))
    truth[0], predicted[1] = 255, 255
    each = sum(confusion_matrix(*one, 5, 255) for one in zip(truth, predicted, strict=True))
    monkeypatch.setattr(metrics, "CHUNK", 3000)
    tracemalloc.start()
    assert np.array_equal(confusion_matrix(truth, predicted, 5, 255), each)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < truth.size, "bytes"


def test_masks_without_known_pixels_have_no_scores():
    matrix = confusion_matrix(np.full((2, 2), IGNORED), np.zeros((2, 2), int), 3, IGNORED)
    assert not matrix.any() and matrix.shape == (3, 4)
    assert np.isnan(class_ious(matrix)).all() and math.isnan(mean_iou(matrix)) and math.isnan(pixel_accuracy(matrix))


def test_a_boundary_iou_worked_out_by_hand():
    truth = np.zeros((1, 8, 8), np.uint8)
    truth[0, 2:6, 2:6] = 1
    predicted = np.zeros_like(truth)
    predicted[0, 2:6, 3:7] = 1
    counts = boundary_pixels(truth, predicted, 3, IGNORED)  # one pixel wide: the ring of 12 of each square
    both = 2 * 3 + 0  # upper and lower edge in columns 3 to 5; the sides do not meet
    assert counts[1].tolist() == [both, 24 - both]
    assert counts[2].tolist() == [0, 0]
    # Of the background: the frame of 28 pixels, and what touches the square from outside.
    assert counts[0, 0] == 28 + 2 * 5 - 2 * 5 + len(shared_outside())
    assert boundary_iou(counts) == pytest.approx(np.mean([counts[0, 0] / counts[0, 1], both / (24 - both)]))
    assert boundary_iou(boundary_pixels(truth, truth, 3, IGNORED)) == 1


def shared_outside() -> set[tuple[int, int]]:
    """Background pixels beside both squares, diagonals too, and not of the frame."""

    def beside(left: int) -> set[tuple[int, int]]:
        square = {(row, column) for row in range(2, 6) for column in range(left, left + 4)}
        near = {(row + down, column + right) for row, column in square for down in (-1, 0, 1) for right in (-1, 0, 1)}
        return {(row, column) for row, column in near - square if 0 < row < 7 and 0 < column < 7}

    return beside(2) & beside(3)


@pytest.mark.parametrize("size", [20, 75, 130])
def test_boundaries_are_those_of_eroding_step_by_step(size):
    numbers = np.random.default_rng(size)
    coarse = numbers.choice([0, 1, 2, IGNORED], (2, 2, 5, 5))
    truth, predicted = (
        np.repeat(np.repeat(one, -(-size // 5), 1), -(-size // 5), 2)[:, :size, :size] for one in coarse
    )
    steps = max(1, round(0.02 * math.hypot(size, size)))
    wanted = np.zeros((3, 2), np.int64)
    for true, seen in zip(truth, predicted, strict=True):
        for class_id in range(3):
            one, other = (
                mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), steps)
                for mask in ((true == class_id), (seen == class_id) & (true != IGNORED))
            )
            wanted[class_id] += (one & other).sum(), (one | other).sum()
    assert boundary_pixels(truth, predicted, 3, IGNORED).tolist() == wanted.tolist()


def test_what_is_predicted_where_nothing_is_known_changes_no_boundary():
    numbers = np.random.default_rng(0)
    truth = numbers.choice([0, 1, IGNORED], (2, 16, 16))
    predicted = numbers.integers(0, 2, truth.shape)
    other = np.where(truth == IGNORED, 1 - predicted, predicted)
    assert boundary_pixels(truth, predicted, 2, IGNORED).tolist() == boundary_pixels(truth, other, 2, IGNORED).tolist()


def test_the_spread_is_that_of_a_sample():
    assert mean_and_spread([0.5]) == (0.5, 0.0)
    mean, spread = mean_and_spread([0.1, 0.2, 0.6])
    assert mean == pytest.approx(0.3) and spread == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
