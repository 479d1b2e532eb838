"""How far a figure would move with other test pictures: each picture's confusion, and the bootstrap over units.

A unit is what is independent of the others: a photograph that several pictures show, or a picture.

Legend: N pictures, U units, K classes besides id 0, R draws.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from pipeline.evaluation.metrics import confusion_matrix, mean_iou
from pipeline.evaluation.results import Difference

NUM_DRAWS = 1000
MOST_UNITS = 256
"""Of more units, several are drawn together, so that memory stays small."""
LEVEL = 0.95
Cells = dict[str, np.ndarray]
"""The confusion of each picture without its zeros: `picture`, `truth`, `predicted`, `pixels`, all of one length."""


def cells(truth: np.ndarray, predicted: np.ndarray, num_outputs: int, ignore_index: int) -> Cells:
    """(N, H, W) class ids of both -> the confusion of each picture, as `confusion_matrix` counts."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("picture", "truth", "predicted", "pixels")}
    for number, (true, seen) in enumerate(zip(truth, predicted, strict=True)):
        confusion = confusion_matrix(true, seen, num_outputs, ignore_index)
        rows, columns = np.nonzero(confusion)
        for name, values in zip(
            found, (np.full(len(rows), number), rows, columns, confusion[rows, columns]), strict=True
        ):
            found[name].append(values.astype(np.int64))
    return {name: np.concatenate(values) for name, values in found.items()}


def to_bytes(values: Cells) -> bytes:
    """As a file, without pickles."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **values)
    return buffer.getvalue()


def from_bytes(content: bytes) -> Cells:
    """What `to_bytes` wrote."""
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def by_unit(values: Cells, units: Sequence[str], num_outputs: int) -> np.ndarray:
    """The confusion of each unit, (U, K + 1, K + 2) int64, in the order of their names, at most MOST_UNITS.

    Args:
        values: of N pictures.
        units: (N,) the unit of each.
        num_outputs: K + 1.
    """
    names, unit = np.unique(np.asarray(units), return_inverse=True)
    unit %= MOST_UNITS
    confusions = np.zeros((min(len(names), MOST_UNITS), num_outputs, num_outputs + 1), np.int64)
    np.add.at(confusions, (unit[values["picture"]], values["truth"], values["predicted"]), values["pixels"])
    return confusions


def drawn_miou(confusions: np.ndarray, seed: int = 0) -> np.ndarray:
    """mIoU of test sets of U units that are drawn with replacement, (R,) float64; equal seeds draw the same units, so
    that two networks can be compared draw by draw. NaN where the drawn units have no known pixel.

    Args:
        confusions: (U, K + 1, K + 2).
        seed: of the draws.
    """
    units = len(confusions)
    times = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), NUM_DRAWS)
    return np.array([mean_iou(np.tensordot(one, confusions, 1)) for one in times])


def least_gains(differences: Sequence[Difference], num_units: int) -> list[float]:
    """What each of several gains is above, with 97.5 % certainty for all of them together.

    Both the test units and the trainings could have been others. The spread over seeds is that of all ways together,
    since few seeds say little of one; what they have in common, the baseline's trainings, is known from as many seeds
    alone, whatever the number of ways. Several tries cost certainty of what is each one's own (Bonferroni), and few
    units or seeds of each part (Student's t; squares of the parts' margins are added). Of ways that gain nothing one in
    a hundred is said to gain in most simulations, and one in 26 at worst: six ways, of which nearly all that differs
    from seed to seed is the baseline.

    Args:
        differences: of each way to the same baseline, over at least two seeds, with `unit_error`.
        num_units: of the test; of fewer than two nothing is known of other ones, and every gain is above -inf alone.

    Raises:
        ValueError: one seed alone.
    """
    seeds = len(differences[0].miou)
    if seeds < 2:
        raise ValueError("one seed says nothing of how much trainings differ")
    if num_units < 2:
        return [-math.inf] * len(differences)
    ways = len(differences)
    values = np.array([one.miou for one in differences])  # ways, seeds
    in_common = values.mean(0)
    apart = values - values.mean(1, keepdims=True) - in_common + in_common.mean()
    # The two parts of the mean variance over seeds (analysis of variance).
    shared = float(np.var(in_common, ddof=1)) / seeds
    own = float((apart**2).sum()) / (ways * (seeds - 1)) / seeds

    def margin2(variance: float, freedom: int, tries: int) -> float:
        return float(stats.t.ppf(1 - (1 - LEVEL) / 2 / tries, max(freedom, 1))) ** 2 * variance

    by_seed = margin2(shared, seeds - 1, 1) + margin2(own, (ways - 1) * (seeds - 1), ways)
    found = []
    for one in differences:
        by_unit = (one.unit_error or 0.0) ** 2 * num_units / max(num_units - 1, 1)
        found.append(float(np.mean(one.miou)) - math.sqrt(by_seed + margin2(by_unit, num_units - 1, ways)))
    return found


def interval(values: np.ndarray) -> tuple[float, float]:
    """Between which LEVEL of the draws lie. Draws of units that have no known pixel say nothing (NaN) and do not
    count."""
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
