"""Rare classes are asked for oftener, as little as can be."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.prompts.balance import balance, shares


def test_balancing_gives_rare_classes_their_share_and_leaves_others_as_they_are():
    random = np.random.default_rng(0)
    asks = random.random((3000, 12)) < np.geomspace(0.3, 0.004, 12)
    weights = random.integers(1, 4, 3000).astype(float)
    wanted = np.where(shares(asks, weights) < 0.05, 0.05, 0)
    factors = balance(asks, weights, wanted, 20)
    after = shares(asks, weights * factors)
    assert (after >= wanted * (1 - 1e-4)).all() and factors.min() >= 1 and factors.max() <= 20
    rare = asks[:, wanted > 0]
    assert np.allclose(after[wanted > 0][1:], 0.05, rtol=1e-4), "no more than wanted; others have lifted the first"
    assert (factors[~rare.any(1)] == 1).all()
    assert len(np.unique(factors[rare.sum(1) == 1].round(9))) <= rare.shape[1], "prompts for one class stay alike"


def test_prompts_for_several_classes_help_where_every_prompt_asks_for_some():
    random = np.random.default_rng(0)
    asks = np.zeros((2000, 8), bool)
    for row in asks:
        row[random.choice(8, random.integers(1, 4), replace=False)] = True
    before = shares(asks, np.ones(2000))
    factors = balance(asks, np.ones(2000), np.full(8, 0.3), 20)
    assert (before < 0.3).all() and (shares(asks, factors) > 0.2999).all() and factors.max() < 20
    assert factors[asks.sum(1) == 3].min() > factors[asks.sum(1) == 1].max()


def test_balancing_changes_nothing_where_nothing_is_rare():
    asks = np.eye(4, dtype=bool)
    assert (balance(asks, np.ones(4), np.full(4, 0.2), 20) == 1).all()
    assert (balance(asks[:, :0], np.ones(4), np.zeros(0), 20) == 1).all()
    assert (balance(np.ones((4, 1), bool), np.ones(4), np.array([0.9]), 20) == 1).all(), "all ask for it"


def test_what_cannot_be_reached_gets_the_most_that_is_allowed():
    asks = np.zeros((100, 3), bool)
    asks[0, 0] = asks[1:5, 1] = True
    factors = balance(asks, np.ones(100), np.full(3, 0.4), 10)
    assert factors[0] == factors.max() == pytest.approx(10)
    assert shares(asks, factors)[0] < 0.4 and shares(asks, factors)[2] == 0
