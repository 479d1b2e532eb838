"""Which pictures of a set look alike, by their hashes; an index, so that a million do not take all pairs of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BITS = 64
MOST_BITS = 3
"""That two hashes may differ in, at most: they then agree in one of four bands of 16 bits."""
PAIRS_AT_ONCE = 2**22


def alike(hashes: np.ndarray, within_bits: int = MOST_BITS) -> np.ndarray:
    """Which pictures look like an earlier one that stays.

    From the first on, a picture stays unless its hash differs in few bits from that of one that stays; so no two that
    stay look alike, and whatever goes looks like one that stays.

    Args:
        hashes: (N,) int64, of `pipeline.pictures.picture_hash`, the best picture first.
        within_bits: 0 to 3.

    Returns:
        (N,) int64: the place of the first one that stays which each looks like; its own place where it stays.

    Raises:
        ValueError: another number of bits.
    """
    if not 0 <= within_bits <= MOST_BITS:
        raise ValueError(f"within_bits: 0 to {MOST_BITS}, got {within_bits}")
    # Unsigned: numpy counts the bits of the absolute values of signed numbers.
    unsigned = hashes.astype(np.int64).view(np.uint64)
    first, inverse = np.unique(unsigned, return_index=True, return_inverse=True)[1:]
    order = np.argsort(first)
    distinct = unsigned[first[order]]
    stays = np.arange(len(distinct))
    if within_bits:
        found = [np.empty((0, 2), np.int64)]
        for left, right in _candidates(distinct):
            near = np.bitwise_count(distinct[left] ^ distinct[right]) <= within_bits
            found.append(np.sort(np.stack([left[near], right[near]], axis=1), axis=1))
        earlier, later = np.concatenate(found).T
        for place in np.lexsort((earlier, later)).tolist():  # whether an earlier one stays is known by then
            if stays[later[place]] == later[place] and stays[earlier[place]] == earlier[place]:
                stays[later[place]] = earlier[place]
    return first[order][stays][np.argsort(order)][inverse]


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of hashes (N,) uint64 that agree in a band of 16 bits, (P,) and (P,), some millions at a time."""
    for band in range(MOST_BITS + 1):
        values = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(values, kind="stable")
        ends = np.flatnonzero(np.diff(values[order], append=2**16)) + 1
        # Each member with those before it in its bucket.
        sizes = np.diff(ends, prepend=0)
        before = np.arange(len(order)) - np.repeat(ends - sizes, sizes)
        totals = np.cumsum(before)
        start = 0
        while start < len(order):
            base = totals[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(totals, base + PAIRS_AT_ONCE, "right")))
            num = before[start:stop]
            members = np.repeat(np.arange(start, stop), num)
            offsets = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num)
            yield order[members], order[members - 1 - offsets]
            start = stop
