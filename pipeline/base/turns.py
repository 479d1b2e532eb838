"""Weighted turns: which of several things comes when, if each is due as often as its weight asks."""

from __future__ import annotations

import numpy as np


def schedule(
    weights: np.ndarray, stop: int, start: int = 0, offsets: np.ndarray | float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Which prompt each pair of a plan takes, and for which time, from pair `start` to before `stop`.

    Repeat r of a prompt of weight w is due at (r + its offset) / w; pairs come in the order in which they are due,
    those that are due at once in that of the prompts. So a longer plan begins like a shorter one, and any part of it
    uses prompts by their weights; also one that is shorter than the prompts are many, where offsets are drawn: with
    equal ones, all that weigh little come after those that weigh more. Takes memory for 2 P + stop - start pairs,
    wherever in a plan they are.

    Args:
        weights: (P,) float64, above 0.
        stop, start: from 0 to 2**31, ascending.
        offsets: (P,) float64 from 0 to 1, or one for all.

    Returns:
        Index of the prompt (stop - start,) int64 and its repeat (stop - start,) int32, from 0.
    """
    # Until time t a prompt is due w t + 1 - offset times, rounded down: all together t sum(w) times, give or take P.
    slack, total = len(weights) + 1, weights.sum()
    offset = np.broadcast_to(np.asarray(offsets, np.float64), weights.shape)
    first = _due_until(weights, offset, max(0.0, (start - slack) / total))
    uses = _due_until(weights, offset, (stop + slack) / total) - first
    index = np.repeat(np.arange(len(weights)), uses)
    repeat = np.arange(len(index)) - np.repeat(np.cumsum(uses) - uses - first, uses)
    order = np.lexsort((index, (repeat + offset[index]) / weights[index]))[start - first.sum() : stop - first.sum()]
    return index[order], repeat[order].astype(np.int32)


def _due_until(weights: np.ndarray, offset: np.ndarray, time: float) -> np.ndarray:
    """How many repeats of each prompt (P,) int64 are due at or before `time`: exactly those that `schedule` would sort
    before all others, or pairs would be there twice or never at the borders of its slices."""
    num = np.maximum(np.floor(weights * time + 1 - offset), 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # what weighs nothing is never due
        num += (num + offset) / weights <= time  # what rounding does at the border
        num -= (num > 0) & ((num - 1 + offset) / weights > time)
    return num.astype(np.int64)
