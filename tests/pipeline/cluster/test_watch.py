"""What a person reads while a graph runs."""

from __future__ import annotations

from collections import Counter

from pipeline.cluster.progress import StageTime
from pipeline.cluster.watch import Rate, line, table


def test_a_line_says_what_is_done_how_fast_what_failed_and_what_it_cost():
    text = line(640, 2048, "pairs", 2.0, 512, Counter(empty_prompt=3, prompt_too_long=1), 0.421)
    assert text == (
        "640 of 2,048 pairs  2/s  11:44 left  512 written  4 errors (empty_prompt 3, prompt_too_long 1)  cost 0.42"
    )
    assert line(0, 10, "pairs", 0.0, 0, Counter(), None) == "0 of 10 pairs  0/s  starting  0 written"


def test_the_rate_is_that_of_the_last_minute_and_leaves_the_start_out():
    rate = Rate()
    assert rate(0, 0.0) == rate(0, 100.0) == 0.0
    assert rate(10, 110.0) == 0.0
    assert rate(30, 120.0) == 2.0
    assert rate(630, 170.5) == (630 - 30) / 50.5


def test_a_table_says_where_the_time_went():
    stages = {"sample": StageTime(0.0, 100, 18.0, 10**7), "write": StageTime(0.0, 100, 1.0, 10**6)}
    found = [row.split() for row in table(stages, {"sample": 2, "refine": 4, "write": 1}, 10.0)]
    assert found[1:] == [
        ["sample", "2", "90%", "10%", "10", "1"],
        ["refine", "4", "0%", "100%", "0", "0"],
        ["write", "1", "10%", "90%", "10", "0.1"],
    ]
