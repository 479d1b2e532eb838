"""How well masks agree: confusion matrix, IoU, boundary IoU, and means over seeds.

What a pixel of unknown class does: where the truth is `ignore_index`, it counts for nothing, whatever is predicted
there. Where a known pixel is predicted to be `ignore_index`, that is a miss of its class, and a hit of none.

Legend: N pictures of H x W pixels, K classes besides id 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

BOUNDARY_SHARE = 0.02
"""Width of a boundary, as a share of the picture's diagonal."""
CHUNK = 2**22
"""Pixels that are counted at a time."""


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_outputs: int, ignore_index: int) -> np.ndarray:
    """Counts pixels by true class (row) and predicted class (column).

    Args:
        truth, predicted: integer class ids of equal shape. Pixels whose truth is `ignore_index` do not count; those
            of a known class that are predicted so are misses, in the last column.
        num_outputs: K + 1.

    Returns:
        (K + 1, K + 2) int64.
    """
    counts = np.zeros(num_outputs * (num_outputs + 1), np.int64)
    true, seen = truth.reshape(-1), predicted.reshape(-1)
    for start in range(0, len(true), CHUNK):  # of all test pictures at once the numbers between would fill memory
        rows, columns = true[start : start + CHUNK], seen[start : start + CHUNK]
        known = rows != ignore_index
        columns = np.where(columns == ignore_index, num_outputs, columns)[known].astype(np.int64)
        cells = rows[known].astype(np.int64) * (num_outputs + 1) + columns
        counts += np.bincount(cells, minlength=len(counts))
    return counts.reshape(num_outputs, num_outputs + 1)


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """(K + 1,) float64 intersection over union per class; NaN for a class that no true pixel has, also where it is
    predicted: else two networks on one test set would have means over different classes."""
    hits = np.diag(confusion).astype(np.float64)
    true = confusion.sum(1)
    union = confusion.sum(0)[: len(hits)] + true - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=true > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU over the classes that true pixels have, background included; NaN where none is known."""
    ious = class_ious(confusion)
    return float(np.mean(ious[np.isfinite(ious)])) if np.isfinite(ious).any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of the known pixels whose class is predicted; NaN where there are none."""
    total = confusion.sum()
    return float(np.diag(confusion).sum() / total) if total else float("nan")


def boundary_pixels(truth: np.ndarray, predicted: np.ndarray, num_outputs: int, ignore_index: int) -> np.ndarray:
    """Pixels of the boundaries of each class, for Boundary IoU (Cheng et al., CVPR 2021, equation 1): those of a mask
    that are at most d from what is not of it, d being 2 % of the diagonal, 1 at least. Outside of the picture nothing
    is of a mask, nor where the truth is unknown.

    Args:
        truth, predicted: (N, H, W) class ids.
        num_outputs, ignore_index: as of `confusion_matrix`.

    Returns:
        (K + 1, 2) int64: in both boundaries of a class, and in one of them at least; 0 for a class that no true pixel
        has. `boundary_iou` takes sums of it.
    """
    width = max(1, round(BOUNDARY_SHARE * float(np.hypot(*truth.shape[1:]))))
    counts = np.zeros((num_outputs, 2), np.int64)
    for true, seen in zip(truth, predicted, strict=True):
        known = true != ignore_index
        for class_id in np.union1d(true[known], seen[known]):
            if class_id != ignore_index:
                one, other = (_boundary(mask & known, width) for mask in (true == class_id, seen == class_id))
                counts[class_id] += (one & other).sum(), (one | other).sum()
    occurs = np.isin(np.arange(num_outputs), truth[truth != ignore_index])
    return np.where(occurs[:, None], counts, 0)


def _boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: pixels of a mask at most `width` from its outside, rows, columns and diagonals alike."""
    inside = mask.astype(np.uint8)
    for axis in (0, 1):
        inside = ndimage.minimum_filter1d(inside, 2 * width + 1, axis, mode="constant")
    return mask & ~inside.astype(bool)


def boundary_iou(counts: np.ndarray) -> float:
    """Mean over the classes that have a boundary of what `boundary_pixels` counted; NaN where none has."""
    some = counts[:, 1] > 0
    return float((counts[some, 0] / counts[some, 1]).mean()) if some.any() else float("nan")


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation over seeds (0 for a single one)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
