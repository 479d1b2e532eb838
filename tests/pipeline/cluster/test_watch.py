"""What a person reads while a graph runs."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

from mlflow import MlflowClient

from pipeline.cluster.progress import StageTime
from pipeline.cluster.watch import Rate, Watch, line, table
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run


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


def test_mlflow_shows_the_numbers_of_the_latest_start_however_long_the_one_before_ran(tmp_path, monkeypatch):
    config = RunConfig(run="a", runs=str(tmp_path))
    for already, made, errors, seconds in ((0, 500, 7, 3600.0), (500, 300, 0, 5.0)):
        stages = {"sample": StageTime(rows=made), "write": StageTime(rows=made)}
        shared: Any = SimpleNamespace(snapshot=lambda stages=stages, errors=errors: (stages, Counter(x=errors)))
        with Run.open(config, "generate") as run, monkeypatch.context() as patch:
            began = time.monotonic()
            watch = Watch("generate", run, shared, {"sample": 1, "write": 1}, already, 1000, "pairs", 0, 0, 10.0)
            patch.setattr(time, "monotonic", lambda began=began, seconds=seconds: began + seconds)
            watch._state(ended=True)
    shown = MlflowClient(run.tracker.uri).get_run(run.tracker.run_id).data.metrics
    assert (shown["pairs_done"], shown["errors"]) == (800, 0)
    assert round(shown["pairs_per_s"]) == 300 / 5
