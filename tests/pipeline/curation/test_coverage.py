"""Coverage, recall and Vendi of sets whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.curation import coverage
from pipeline.curation.coverage import coverage_of, vendi

NUMBERS = np.random.default_rng(0)


def cloud(count: int, centre: int = 0, spread: float = 0.1) -> np.ndarray:
    """Around one of the axes of 16."""
    found = NUMBERS.normal(0, spread, (count, 16)).astype(np.float32)
    found[:, centre] += 1
    return found


def test_another_draw_of_the_same_covers_it_and_is_as_varied():
    found = coverage_of(cloud(400), cloud(400))
    assert found.pictures == 400 and min(found.precision, found.recall, found.coverage) > 0.9
    assert found.density == pytest.approx(1, abs=0.15) and found.vendi == pytest.approx(found.vendi_real, rel=0.1)


def test_half_of_what_there_is_covers_half_and_elsewhere_covers_nothing():
    real = np.concatenate([cloud(200, 0), cloud(200, 5)])
    half = coverage_of(real, cloud(400, 0))
    assert half.coverage == pytest.approx(0.5, abs=0.03) and half.recall == pytest.approx(0.5, abs=0.08)
    assert half.precision > 0.8
    elsewhere = coverage_of(real, cloud(400, 9))
    assert (elsewhere.coverage, elsewhere.recall, elsewhere.precision) == (0, 0, 0)


def test_one_picture_again_and_again_is_told():
    real = cloud(300)
    repeated = coverage_of(
        real, np.repeat(real[:1], 300, axis=0) + NUMBERS.normal(0, 1e-4, (300, 16)).astype(np.float32)
    )
    assert repeated.vendi < 1.01 < repeated.vendi_real and repeated.coverage < 0.1 and repeated.precision == 1


def test_vendi_counts_what_differs():
    assert vendi(np.eye(7, dtype=np.float32)) == pytest.approx(7)
    assert vendi(np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)) == pytest.approx(3)


def test_distances_of_parts_are_those_of_all(monkeypatch):
    real, made = cloud(100), cloud(100, spread=0.2)
    whole = coverage_of(real, made)
    monkeypatch.setattr(coverage, "ROWS_AT_ONCE", 7)
    assert coverage_of(real, made).model_dump() == pytest.approx(whole.model_dump())


def test_sets_of_other_sizes_are_refused():
    for real, made in ((cloud(10), cloud(9)), (cloud(5), cloud(5))):
        with pytest.raises(ValueError, match="as many pictures of both"):
            coverage_of(real, made)
