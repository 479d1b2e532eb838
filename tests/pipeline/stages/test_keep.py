"""Rows that are there already are dropped, and those that failed on the way are kept."""

from __future__ import annotations

import pyarrow as pa

from pipeline.stages.keep import KeepPlanned

PLANNED = pa.table({"pair_id": ["a", "b"], "x": [1, 2]})


def test_only_what_is_planned_stays_with_all_its_columns() -> None:
    rows = pa.table({"pair_id": ["c", "b", "a"], "seed": [3, 2, 1]})
    assert KeepPlanned(PLANNED, "pair_id")(rows).to_pylist() == [
        {"pair_id": "b", "seed": 2},
        {"pair_id": "a", "seed": 1},
    ]


def test_rows_that_failed_stay_to_be_written_as_errors() -> None:
    rows = pa.table({"pair_id": ["c", "d", "a"], "error": ["wrong_mask", "", ""]})
    assert KeepPlanned(PLANNED, "pair_id", "error")(rows)["pair_id"].to_pylist() == ["c", "a"]


def test_blocks_of_pandas_strings_are_taken() -> None:
    rows = pa.table({"pair_id": pa.array(["a", "z"], pa.large_string())})
    assert KeepPlanned(PLANNED, "pair_id")(rows)["pair_id"].to_pylist() == ["a"]
    assert KeepPlanned(PLANNED, "pair_id")(rows.slice(0, 0)).num_rows == 0
