"""Copies are near to a real pair beside how far real ones are apart; what no real pair is like is rare."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.curation.nearest import RealPairs


def real(numbers: np.random.Generator, num: int = 300) -> RealPairs:
    embeddings = numbers.normal(3.0, 1.0, (num, 24)).astype(np.float32)
    holds = np.zeros((num, 4), bool)
    holds[np.arange(num), 1 + np.arange(num) % 2] = True
    return RealPairs.of(np.array([f"id{one}" for one in range(num)]), embeddings, np.arange(1, num + 1), holds)


def test_distances_among_real_pairs_are_those_of_comparing_all():
    pairs = real(np.random.default_rng(0), 50)
    distance = 1 - pairs.embeddings @ pairs.embeddings.T
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_allclose(pairs.apart, distance.min(1), atol=1e-5)
    for place in range(50):
        nearest = int(distance[place].argmin())
        others = np.delete(distance[nearest], place)
        np.testing.assert_allclose(pairs.ratios[place], distance[place].min() / others.min(), rtol=1e-3)


def test_copies_lie_below_the_ratio_of_real_pairs_and_new_ones_above():
    numbers = np.random.default_rng(1)
    pairs = real(numbers)
    raw = pairs.embeddings[:20] + pairs.mean
    holds = np.zeros((20, 4), bool)
    holds[:, 1] = True
    copies = pairs.nearest(raw + numbers.normal(0, 0.01, raw.shape), holds)
    new = pairs.nearest(numbers.normal(3.0, 1.0, raw.shape).astype(np.float32), holds)
    assert copies.place.tolist() == list(range(20))
    assert copies.ratio.max() < pairs.copy_ratio < np.quantile(new.ratio, 0.1)


@pytest.mark.parametrize(("num", "most"), [(40, 0.008), (400, 0.003)])
def test_few_real_pairs_do_not_make_copies_of_new_pictures(num, most):
    numbers = np.random.default_rng(4)
    holds = np.ones((500, 1), bool)
    called, copied = [], []
    for _ in range(4000 // num):
        raw = numbers.normal(size=(num + 500, 12)).astype(np.float32)
        pairs = RealPairs.of(np.arange(num), raw[:num], np.zeros(num, np.int64), holds[:num])
        called.append((pairs.nearest(raw[num:], holds).ratio < pairs.copy_ratio).mean())
        again = raw[:num] + numbers.normal(0, 0.01, (num, 12)).astype(np.float32)
        copied.append((pairs.nearest(again, holds[:num]).ratio < pairs.copy_ratio).mean())

    assert np.mean(called) < most, "one in a thousand is meant; the least ratio alone would call one in N + 1 a copy"
    assert np.mean(copied) > 0.99


def test_rarity_is_the_distance_to_real_pairs_of_the_same_classes():
    pairs = real(np.random.default_rng(2))
    raw = pairs.embeddings[:4] + pairs.mean
    holds = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    found = pairs.nearest(raw, holds)
    assert found.rarity[0] < 1e-4, "the pair itself holds class 1"
    assert found.rarity[1] > 0.05, "it holds class 2 alone"
    assert np.isnan(found.rarity[2:]).all(), "no real pair holds class 3, and the last one holds none"


def test_what_is_saved_is_what_was_there():
    pairs = real(np.random.default_rng(3), 20)
    again = RealPairs.from_bytes(pairs.to_bytes())
    for name in ("ids", "mean", "embeddings", "hashes", "holds", "apart", "ratios"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pairs, name))
