"""Weighted turns: which of several things comes when, if each is due as often as its weight asks."""

from __future__ import annotations

import numpy as np


def schedule(weights: np.ndarray, num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Which prompt each pair of a plan takes, and for which time.

    Repeat r of a prompt of weight w is due at (r + 1/2) / w; pairs come in the order in which they are due, so a longer
    plan begins like a shorter one, and any part of it uses prompts by their weights.

    Args:
        weights: (P,) float64, above 0.
        num_pairs: N.

    Returns:
        Index of the prompt (N,) int64 and its repeat (N,) int32, from 0.
    """
    low, high = 0.0, 1.0
    while np.floor(weights * high + 0.5).sum() < num_pairs:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if np.floor(weights * middle + 0.5).sum() < num_pairs:
            low = middle
        else:
            high = middle
    uses = np.floor(weights * high + 0.5).astype(np.int64) + 1  # one more, for what rounding does at the border
    index = np.repeat(np.arange(len(weights)), uses)
    repeat = np.arange(len(index)) - np.repeat(np.cumsum(uses) - uses, uses)
    order = np.lexsort((index, (repeat + 0.5) / weights[index]))[:num_pairs]
    return index[order], repeat[order].astype(np.int32)
