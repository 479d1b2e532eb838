"""Turns: the order of a plan is in people's shards, and any part of it is found without the rest."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from pipeline.base.turns import schedule

DRAW = np.random.default_rng(0)
WEIGHTS = {
    "one": np.ones(1),
    "equal": np.ones(37),
    "whole": DRAW.integers(1, 6, 50).astype(float),
    "thirds": DRAW.integers(1, 6, 50) / 3,
    "any": DRAW.uniform(0.1, 5, 100),
    "few of many": np.array([1.0] * 20 + [1e-9] * 20 + [7e3]),
    "as far apart as prompts may be": 10.0 ** DRAW.uniform(-20, 20, 60),
    "never": np.array([3.0, 0.0, 1.0]),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_order_is_that_of_runs_that_began_before_plans_had_slices(kind):
    weights = WEIGHTS[kind]
    for num in (1, 2, 36, 37, 38, 1000, 5003):
        with np.errstate(divide="ignore"):
            index, repeat = all_at_once(weights, num)
        found = schedule(weights, num)
        assert np.array_equal(found[0], index) and np.array_equal(found[1], repeat)
        assert [part.dtype.name for part in found] == ["int64", "int32"]
        cuts = [0, *sorted(DRAW.integers(0, num + 1, 5).tolist()), num]
        parts = [schedule(weights, stop, start) for start, stop in pairwise(cuts)]
        assert np.array_equal(np.concatenate([part for part, _ in parts]), index)
        assert np.array_equal(np.concatenate([part for _, part in parts]), repeat)


@pytest.mark.parametrize("kind", ["one", "equal", "any", "as far apart as prompts may be"])
def test_a_slice_far_out_takes_no_more_memory_than_the_first(kind):
    weights, end = WEIGHTS[kind], 2**31 - 1
    tracemalloc.start()
    index, repeat = schedule(weights, end, end - 1000)
    further = schedule(weights, end - 500, end - 1500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert len(index) == len(repeat) == 1000 and repeat.max() > end * weights.max() / weights.sum() - 2
    assert np.array_equal(further[0][500:], index[:500]) and np.array_equal(further[1][500:], repeat[:500])


@pytest.mark.parametrize("kind", WEIGHTS)
def test_drawn_offsets_make_every_part_follow_the_weights(kind):
    weights = WEIGHTS[kind]
    offsets = np.random.default_rng(1).uniform(0, 1, len(weights))
    index, repeat = schedule(weights, 5003, offsets=offsets)
    cuts = [0, *sorted(DRAW.integers(0, 5004, 7).tolist()), 5003]
    parts = [schedule(weights, stop, start, offsets) for start, stop in pairwise(cuts)]
    assert np.array_equal(np.concatenate([part for part, _ in parts]), index)
    assert np.array_equal(np.concatenate([part for _, part in parts]), repeat)
    assert len(set(zip(index.tolist(), repeat.tolist(), strict=True))) == 5003
    for num in (1, 7, 100, 5003):
        counts = np.bincount(index[:num], minlength=len(weights))
        assert np.abs(counts - num * weights / weights.sum()).max() <= 2


def test_a_short_part_with_drawn_offsets_takes_prompts_that_weigh_little_too():
    weights = np.array([3.0] * 100 + [1.0] * 700)
    offsets = np.random.default_rng(0).uniform(0, 1, 800)
    shares = [np.mean(weights[schedule(weights, 200, offsets=one)[0]] == 1) for one in (offsets, 0.5)]
    assert shares[0] == pytest.approx(0.7, abs=0.08) and shares[1] < 0.1


def test_an_empty_slice_is_one():
    assert [len(part) for part in schedule(WEIGHTS["any"], 10, 10)] == [0, 0]


def all_at_once(weights: np.ndarray, num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """The implementation that plans were made with before."""
    low, high = 0.0, 1.0
    while np.floor(weights * high + 0.5).sum() < num_pairs:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if np.floor(weights * middle + 0.5).sum() < num_pairs:
            low = middle
        else:
            high = middle
    uses = np.floor(weights * high + 0.5).astype(np.int64) + 1
    index = np.repeat(np.arange(len(weights)), uses)
    repeat = np.arange(len(index)) - np.repeat(np.cumsum(uses) - uses, uses)
    order = np.lexsort((index, (repeat + 0.5) / weights[index]))[:num_pairs]
    return index[order], repeat[order].astype(np.int32)
