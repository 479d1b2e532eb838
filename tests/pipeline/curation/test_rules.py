"""Rules leave pairs out for the first reason that holds, and never for what is not known."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.curation.rules import Rules, reasons


def rows(**columns) -> pa.Table:
    num = len(next(iter(columns.values())))
    given = {"pair_id": [f"{one:02}" for one in range(num)], "class_ids": [[0, 1]] * num}
    return pa.table({**given, **columns})


def test_each_rule_leaves_out_what_it_says_in_its_order():
    table = rows(
        blocked=[True, None, False, False, False, False],
        nearest_ratio=[0.1, 0.1, 1.0, None, 1.0, 1.0],
        picture_hash=[255, 9, 255, 2**40, 2**40 + 1, None],
        sharpness=[1.0, 1.0, 5.0, 9.0, 7.0, None],
    )
    rules = Rules(at_least={"sharpness": 6.0}, rank_by="sharpness")
    assert reasons(table, rules, 0.3, 2) == [
        "blocked", "a copy of a real pair", "sharpness below 6", None, "looks like another one", None,
    ]  # fmt: skip
    kept = Rules(drop_blocked=False, drop_copies=False, alike_within_bits=-1)
    assert reasons(table, kept, 0.3, 2) == [None] * 6


def test_of_what_looks_alike_one_stays_that_no_bound_leaves_out():
    table = rows(picture_hash=[0, 0, 0b111, 0b111111], sharpness=[1.0, 9.0, 8.0, 7.0])
    left = reasons(table, Rules(at_least={"sharpness": 2.0}), 0.0, 2)
    assert left == ["sharpness below 2", None, "looks like another one", None]


def test_the_best_are_found_among_pairs_of_as_many_classes():
    table = rows(
        class_ids=[[0, 1]] * 4 + [[0, 1, 2]] * 4,
        agreement=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, None],
        noisy=[0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3, 0.4],
    )
    half = "agreement not among the best 50 %"
    found = reasons(table, Rules(best={"agreement": 0.5}), 0.0, 2)
    assert found == [None, None, half, half, None, None, half, None]
    found = reasons(table, Rules(best={"agreement": 0.5}, within="all"), 0.0, 2)
    assert found == [None, None, None, None, half, half, half, None]
    less = reasons(table, Rules(best={"noisy": 0.25}), 0.0, 2)
    assert [one is None for one in less] == [True, False, False, False, True, False, False, False]


def test_a_pair_stays_where_it_is_among_the_best_of_one_of_its_classes():
    table = rows(class_ids=[[0, 1], [0, 1], [0, 1, 2], [0, 2]], agreement=[0.9, 0.8, 0.1, 0.05])
    found = reasons(table, Rules(best={"agreement": 0.5}, within="class"), 0.0, 2)
    assert [one is None for one in found] == [True, True, True, False]


def test_pixels_without_a_class_are_none():
    table = rows(class_ids=[[0, 1], [0, 1], [0, 1, 255], [0, 1, 255]], agreement=[0.9, 0.8, 0.2, 0.1])
    for rules in (
        Rules(best={"agreement": 0.5}),
        Rules(best={"agreement": 0.5}, within="class"),
        Rules(most_per_class=2, rank_by="agreement"),
    ):
        assert [one is None for one in reasons(table, rules, 0.0, 2)] == [True, True, False, False]


def test_bounds_by_class_and_a_target_take_the_best_first():
    table = rows(class_ids=[[0, 1]] * 3 + [[0, 1, 2]] * 2 + [[0]], sharpness=[1.0, 2.0, 3.0, 0.5, 0.4, 0.1])
    found = reasons(table, Rules(most_per_class=2, rank_by="sharpness"), 0.0, 2)
    assert [one is None for one in found] == [False, True, True, True, True, True], "class 2 has room for both"
    found = reasons(table, Rules(target=2, rank_by="sharpness"), 0.0, 2)
    assert [one is None for one in found] == [False, True, True, False, False, False]


def test_what_is_no_score_is_refused():
    with pytest.raises(ValidationError, match="beauty: no score; there are agreement"):
        Rules(at_least={"beauty": 0.5})
    with pytest.raises(ValidationError, match="shares above 0 and below 1"):
        Rules(best={"agreement": 1.5})
    with pytest.raises(ValidationError, match="rank_by: 'beauty' is no score"):
        Rules(rank_by="beauty")
    assert Rules(at_least={"confidence_mean": 0.5}).scores == [], "a column of the pairs themselves"
