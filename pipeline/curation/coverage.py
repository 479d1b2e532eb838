"""How much of the real set a generated one covers, and how varied it is.

Improved precision and recall (Kynkaanniemi et al., NeurIPS 2019), density and coverage (Naeem et al., ICML 2020) and
the Vendi score (Friedman and Dieng, TMLR 2023), all of embeddings of pictures. None of them says what a segmenter
learns: they say whether pairs repeat each other, or leave out what real pictures show.

Legend: N pictures of each set, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.curation.nearest import unit_vectors
from pipeline.tables.scores import Coverage, CoverageFile

NEIGHBOURS = 5
"""As the authors of density and coverage have it."""
MOST = 4096
"""Pictures of each set: their distances are an N x N table."""
ROWS_AT_ONCE = 512


def coverage_of(real: np.ndarray, made: np.ndarray) -> Coverage:
    """Compares as many pictures of either set.

    Args:
        real, made: (N, D) float32 embeddings, more than `NEIGHBOURS` of them.

    Raises:
        ValueError: other shapes.
    """
    if real.shape != made.shape or real.ndim != 2 or len(real) <= NEIGHBOURS:
        raise ValueError(f"as many pictures of both sets, more than {NEIGHBOURS}, got {real.shape} and {made.shape}")
    mean = real.mean(0, dtype=np.float64).astype(np.float32)
    real, made = unit_vectors(real - mean), unit_vectors(made - mean)
    around_real, around_made = _reach(real), _reach(made)
    balls, recalled, covered = np.empty(len(made), int), np.zeros(len(real), bool), np.zeros(len(real), bool)
    for start in range(0, len(made), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        distance = 1 - made[rows] @ real.T
        inside = distance <= around_real
        balls[rows] = inside.sum(1)
        covered |= inside.any(0)
        recalled |= (distance <= around_made[rows, None]).any(0)
    return Coverage(
        pictures=len(real),
        precision=float((balls > 0).mean()),
        recall=float(recalled.mean()),
        density=float(balls.mean() / NEIGHBOURS),
        coverage=float(covered.mean()),
        vendi=vendi(made),
        vendi_real=vendi(real),
    )


def coverage_file(sets: Sequence[np.ndarray], made_with: str) -> CoverageFile:
    """What the second of the sets of embeddings is to the first one, and the third, if any, to it; as many pictures of
    each."""
    number = min(map(len, sets))
    real, made, *further = (one[:number] for one in sets)
    held_out = coverage_of(real, further[0]) if further else None
    return CoverageFile(made_with=made_with, found=coverage_of(real, made), held_out=held_out)


def vendi(unit: np.ndarray) -> float:
    """Of (N, D) vectors of length 1: the exponential of the entropy of the eigenvalues of their similarities over N."""
    # The D x D table has the same eigenvalues, but for zeros, as the N x N one.
    table = unit.T @ unit if unit.shape[0] > unit.shape[1] else unit @ unit.T
    values = np.linalg.eigvalsh(table.astype(np.float64) / len(unit))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def _reach(unit: np.ndarray) -> np.ndarray:
    """(N,) distance from each to its `NEIGHBOURS`-th other one."""
    reach = np.empty(len(unit), np.float32)
    for start in range(0, len(unit), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        distance = 1 - unit[rows] @ unit.T
        distance[np.arange(len(distance)), np.arange(len(unit))[rows]] = np.inf
        reach[rows] = np.partition(distance, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
    return reach
