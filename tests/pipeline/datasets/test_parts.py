"""Parts of a set, and what is looked at first."""

from __future__ import annotations

import pytest

from pipeline.datasets.parts import bounds_of, num_labelled, of_part, some_of
from pipeline.datasets.source import entry_table

ENTRIES = entry_table((f"{number:03}", "a.png", "m.png" if number % 3 == 0 else "", []) for number in range(90))


def keys(entries):
    return set(entries["key"].to_pylist())


def test_bounds_are_in_per_cent():
    assert bounds_of("0:80") == (0.0, 80.0)
    with pytest.raises(ValueError, match="is no part"):
        bounds_of("80")


def test_parts_hold_each_picture_once():
    parts = [of_part(ENTRIES, one) for one in ("0:50", "50:75", "75:100")]

    assert sum(map(len, parts)) == 90 and set().union(*map(keys, parts)) == keys(ENTRIES) == keys(of_part(ENTRIES, ""))


def test_pictures_without_masks_are_held_out_only_with_the_others():
    train, held_out = (of_part(ENTRIES, one, "labelled") for one in ("0:60", "60:100"))

    assert num_labelled(held_out) == held_out.num_rows > 0 and num_labelled(train) + held_out.num_rows == 30
    assert train.num_rows - num_labelled(train) == 60
    assert keys(held_out) <= keys(of_part(ENTRIES, "60:100")), "pictures with masks stay in their part"


def test_most_of_what_is_looked_at_has_masks():
    some = some_of(ENTRIES, 16)
    assert (some.num_rows, num_labelled(some)) == (16, 12)
    few = some_of(ENTRIES.slice(0, 6), 16)
    assert (few.num_rows, num_labelled(few)) == (6, 2)
    assert num_labelled(some_of(ENTRIES, 80)) == 30 and some_of(ENTRIES, 80).num_rows == 80
    assert some_of(ENTRIES, 1).num_rows == 1 == num_labelled(some_of(ENTRIES, 1))
