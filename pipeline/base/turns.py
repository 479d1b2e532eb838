"""Weighted turns: which of several things comes when, if each is due as often as its weight asks."""

from __future__ import annotations

import numpy as np


def schedule(weights: np.ndarray, stop: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which prompt each pair of a plan takes, and for which time, from pair `start` to before `stop`.

    Repeat r of a prompt of weight w is due at (r + 1/2) / w; pairs come in the order in which they are due, those that
    are due at once in that of the prompts. So a longer plan begins like a shorter one, and any part of it uses prompts
    by their weights. Takes memory for 2 P + stop - start pairs, wherever in a plan they are.

    Args:
        weights: (P,) float64, above 0.
        stop, start: from 0 to 2**31, ascending.

    Returns:
        Index of the prompt (stop - start,) int64 and its repeat (stop - start,) int32, from 0.
    """
    # Until time t a prompt is due w t + 1/2 times, rounded down: all together t sum(w) times, give or take P / 2.
    slack, total = len(weights) / 2 + 1, weights.sum()
    first = _due_until(weights, max(0.0, (start - slack) / total))
    uses = _due_until(weights, (stop + slack) / total) - first
    index = np.repeat(np.arange(len(weights)), uses)
    repeat = np.arange(len(index)) - np.repeat(np.cumsum(uses) - uses - first, uses)
    order = np.lexsort((index, (repeat + 0.5) / weights[index]))[start - first.sum() : stop - first.sum()]
    return index[order], repeat[order].astype(np.int32)


def _due_until(weights: np.ndarray, time: float) -> np.ndarray:
    """How many repeats of each prompt (P,) int64 are due at or before `time`: exactly those that `schedule` would sort
    before all others, or pairs would be there twice or never at the borders of its slices."""
    num = np.floor(weights * time + 0.5)
    with np.errstate(divide="ignore"):  # what weighs nothing is never due
        num += (num + 0.5) / weights <= time  # what rounding does at the border
        num -= (num > 0) & ((num - 0.5) / weights > time)
    return num.astype(np.int64)
