"""A row that kills its process ends as an error after a bounded number of tries, and takes no other row with it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.cluster.guard import Guard
from pipeline.cluster.progress import Progress
from pipeline.cluster.sink import split_errors


class Died(BaseException):
    """Stands for the end of the process: nothing behind it runs."""


def stage_that_dies_of(poison: set[str]):
    def stage(batch):
        errors = [str(error) for error in batch.get("error", [""] * len(batch["pair_id"]))]
        for row, error in zip(batch["pair_id"], errors, strict=True):
            if row in poison and not error:
                raise Died
        details = batch.get("error_detail", np.full(len(errors), "", object))
        return {**batch, "error": np.array(errors, object), "error_detail": details}

    return stage


def until_it_lives(guard, batch):
    """As Ray does it: a task whose process died is run again, in a new one."""
    for deaths in range(100):
        try:
            return guard(batch), deaths
        except Died:
            continue
    pytest.fail("it never ended")


def batch_of(*ids, prompts=None):
    return {"pair_id": np.array(ids, object), "prompt_id": np.array(prompts or ids, object)}


def test_rows_that_kill_fail_alone_and_boundedly():
    progress = Progress()
    guard = Guard(stage_that_dies_of({"b", "d"}), progress, "sampler_died")
    made, deaths = until_it_lives(guard, batch_of("a", "b", "c", "d"))
    assert made["pair_id"].tolist() == ["a", "b", "c", "d"]
    assert made["error"].tolist() == ["", "sampler_died", "", "sampler_died"]
    assert "died 2 times on this alone" in made["error_detail"][1]
    assert deaths == 6, "twice together, twice for each of the two"
    assert not progress._begun


def test_a_row_of_a_table_that_kills_passes_a_stage_that_knows_no_errors():
    def stage(rows):
        if "b" in rows["pair_id"].to_pylist():
            raise Died
        return rows.drop_columns(["prompt"]).append_column("score", pa.array([1.0] * len(rows)))

    rows = pa.table({"pair_id": ["a", "b", "c"], "prompt": ["x", "y", "z"], "image": [b""] * 3})
    guard = Guard(stage, Progress(), "process_died")
    made, deaths = until_it_lives(guard, rows)
    assert deaths == 4
    made, failed = split_errors(made)
    assert made["pair_id"].to_pylist() == ["a", "c"] and made["score"].to_pylist() == [1.0, 1.0]
    assert failed["pair_id"].to_pylist() == ["b"] and failed["prompt"].to_pylist() == ["y"]
    assert failed["reason"].to_pylist() == ["process_died"]
    again, deaths = until_it_lives(guard, rows)
    assert deaths == 0 and sorted(again["pair_id"].to_pylist()) == ["a", "b", "c"], "and kills nobody again"


def test_a_prompt_that_was_given_up_kills_nobody_again():
    guard = Guard(stage_that_dies_of({"a0", "a1"}), Progress(), "sampler_died")
    until_it_lives(guard, batch_of("a0", "b0", prompts=["a", "b"]))
    made, deaths = until_it_lives(guard, batch_of("a1", "b1", prompts=["a", "b"]))
    assert made["error"].tolist() == ["sampler_died", ""] and deaths == 0


def test_a_lost_machine_costs_nobody_an_error():
    progress = Progress()
    poison = {"a"}
    guard = Guard(stage_that_dies_of(poison), progress, "sampler_died")
    for _ in range(3):
        with pytest.raises(Died):
            guard(batch_of("a", "b"))
    poison.clear()
    made, _ = until_it_lives(guard, batch_of("a", "b"))
    assert made["error"].tolist() == ["", ""]


def test_a_good_batch_leaves_no_trace():
    progress = Progress()
    guard = Guard(stage_that_dies_of(set()), progress, "sampler_died")
    for _ in range(5):
        assert guard(batch_of("a", "b"))["error"].tolist() == ["", ""]
    assert not progress._begun


def test_when_all_work_is_to_stop_nothing_is_begun():
    progress = Progress()
    progress.stop()
    guard = Guard(stage_that_dies_of({"a"}), progress, "sampler_died")
    assert guard.nothing is None
    made = guard(batch_of("a", "b"))
    assert len(made["pair_id"]) == 0
    assert guard.nothing is made, "what passes for all others, without a word to anybody"
