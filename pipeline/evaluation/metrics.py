"""How well masks agree: confusion matrix, IoU, and means over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_outputs: int, ignore_index: int) -> np.ndarray:
    """Counts pixels by true class (row) and predicted class (column).

    Args:
        truth, predicted: integer class ids of equal shape. Pixels whose truth is `ignore_index` do not count; those
            of a known class that are predicted so are misses, in the last column.
        num_outputs: K + 1.

    Returns:
        (K + 1, K + 2) int64.
    """
    known = truth != ignore_index
    columns = np.where(predicted == ignore_index, num_outputs, predicted)[known].astype(np.int64)
    cells = truth[known].astype(np.int64) * (num_outputs + 1) + columns
    return np.bincount(cells, minlength=num_outputs * (num_outputs + 1)).reshape(num_outputs, num_outputs + 1)


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """(K + 1,) float64 intersection over union per class; NaN for a class that is neither true nor predicted."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0)[: len(hits)] + confusion.sum(1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU over the classes that occur, background included (Pascal VOC's measure); NaN where none does."""
    ious = class_ious(confusion)
    return float(np.mean(ious[np.isfinite(ious)])) if np.isfinite(ious).any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of the known pixels whose class is predicted; NaN where there are none."""
    total = confusion.sum()
    return float(np.diag(confusion).sum() / total) if total else float("nan")


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation over seeds (0 for a single one)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
