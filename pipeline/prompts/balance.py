"""How much more often prompts must be used so that rare classes are asked for often enough."""

from __future__ import annotations

import numpy as np

MAX_ROUNDS = 200
NUM_HALVINGS = 7
TOLERANCE = 1e-6
NEARLY = 0.9


def shares(asks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the weighted prompts that ask for each class.

    Args:
        asks: (P, C) bool, which prompt asks for which class.
        weights: (P,) float64, above 0.

    Returns:
        (C,) float64 in [0, 1].
    """
    return weights @ asks / weights.sum()


def balance(asks: np.ndarray, weights: np.ndarray, wanted: np.ndarray, max_factor: float) -> np.ndarray:
    """Factors for `weights` with which each class gets its wanted share.

    Where the classes cannot all have that, each gets the same part of what it lacks, as great as it can be; one that
    would need more than `max_factor` alone wants nearly what it can have.

    Args:
        asks: (P, C) bool, which prompt asks for which class.
        weights: (P,) float64, above 0.
        wanted: (C,) least share of each class, below 1; 0 wants nothing.
        max_factor: the greatest factor, in multiples of the least.

    Returns:
        (P,) float64 from 1 to `max_factor`; all 1 where every class has its share.
    """
    before = shares(asks, weights)
    most = max_factor * before / (max_factor * before + 1 - before)
    wanted = np.where(most > wanted, wanted, NEARLY * most)
    has = np.minimum(before, wanted)
    best, low, high, part = np.ones(len(weights)), 0.0, 1.0, 1.0
    for _ in range(1 + NUM_HALVINGS):
        goal = has + part * (wanted - has)
        factors = fit(asks, weights, goal, max_factor)
        if (shares(asks, weights * factors) >= goal * (1 - 1e-3)).all():
            best, low = factors, part
        else:
            high = part
        if low == high:
            break
        part = (low + high) / 2
    return best


def fit(asks: np.ndarray, weights: np.ndarray, wanted: np.ndarray, max_factor: float) -> np.ndarray:
    """Factors as of `balance`, where they exist.

    A prompt's factor is the product of one number for each class that it asks for, in multiples of the least product.
    The numbers are found in turn, each so that its class gets just what is wanted (iterative proportional fitting;
    Deming and Stephan, 1940), and are never below 1. As long as no factor meets `max_factor`, of all weights that
    fulfil the wish these are the nearest to what was given, in the sense of the Kullback-Leibler divergence.
    """
    limit = np.log(max_factor)
    prompts_of = [np.flatnonzero(column) for column in asks.T]
    numbers, logs = np.zeros(len(wanted)), np.zeros(len(weights))
    for _ in range(MAX_ROUNDS):
        least = logs.min()
        used = weights * np.exp(np.minimum(logs - least, limit))
        greatest, total = 0.0, used.sum()
        for index in np.flatnonzero(wanted):
            prompts = prompts_of[index]
            inside = used[prompts].sum()
            if total - inside < TOLERANCE * total:  # asked for by all
                continue
            step = np.log(wanted[index] / (1 - wanted[index]) * (total - inside) / inside)
            step = np.clip(numbers[index] + step, 0, limit) - numbers[index]
            numbers[index] += step
            logs[prompts] += step
            used[prompts] = weights[prompts] * np.exp(np.minimum(logs[prompts] - least, limit))
            total += used[prompts].sum() - inside
            greatest = max(greatest, abs(step))
        if greatest < TOLERANCE:
            break
    return np.exp(np.minimum(logs - logs.min(), limit))
