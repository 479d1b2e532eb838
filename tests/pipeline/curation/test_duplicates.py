"""Pictures that look alike are found by an index, exactly as comparing all with all would."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.curation import duplicates
from pipeline.curation.duplicates import alike


def by_all_pairs(hashes: np.ndarray, within_bits: int) -> list[int]:
    def near(one: int, other: int) -> bool:
        return ((int(hashes[one]) ^ int(hashes[other])) & (2**64 - 1)).bit_count() <= within_bits

    stay: list[int] = []
    found = []
    for one in range(len(hashes)):
        found.append(next((other for other in stay if near(one, other)), one))
        stay += [one] * (found[-1] == one)
    return found


@pytest.mark.parametrize("within_bits", [0, 1, 3])
@pytest.mark.parametrize("at_once", [7, 2**22])
def test_what_stays_is_that_of_comparing_all_with_all(within_bits, at_once, monkeypatch):
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", at_once)
    numbers = np.random.default_rng(within_bits)
    hashes = numbers.integers(-(2**63), 2**63 - 1, 30)
    changed = []
    for one in hashes[:20].tolist():
        for bit in numbers.choice(64, numbers.integers(0, 5), replace=False).tolist():
            one ^= 1 << bit if bit < 63 else -(2**63)
        changed.append(one)
    mixed = numbers.permutation(np.concatenate([hashes, np.array(changed, np.int64), hashes[:3]]))
    assert alike(mixed, within_bits).tolist() == by_all_pairs(mixed, within_bits)


def test_what_goes_looks_like_one_that_stays_and_not_only_like_one_that_goes():
    assert alike(np.array([0, 0b111, 0b111111])).tolist() == [0, 0, 2]
    assert alike(np.array([0b111, 0, 0b111111])).tolist() == [0, 0, 0]


def test_many_equal_hashes_are_one_group_and_take_no_time():
    hashes = np.repeat(np.array([5, -(2**40)], np.int64), 200_000)
    groups = alike(hashes)
    assert set(groups.tolist()) == {0, 200_000}
    assert len(alike(np.array([], np.int64))) == 0
    with pytest.raises(ValueError, match="0 to 3"):
        alike(hashes, 4)
