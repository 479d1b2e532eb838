"""Tables are cast to their schema, or the column that is wrong is named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from ray.data.block import BlockAccessor

from pipeline.base.errors import ShardError
from pipeline.tables.conform import conform
from pipeline.tables.schema import ERROR, LATENT, PAIR, PROMPT


def _objects(values: list[object]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _pair_columns(num_rows: int) -> dict[str, object]:
    return {
        "pair_id": [f"{row:032x}" for row in range(num_rows)],
        "image": [b"image"] * num_rows,
        "mask": [b"mask"] * num_rows,
        "height": [4] * num_rows,
        "width": [6] * num_rows,
        "class_ids": [[0, 3]] * num_rows,
        "class_pixels": [[20, 4]] * num_rows,
        "origin": ["synthetic"] * num_rows,
    }


def test_conform_fills_drops_orders_and_casts() -> None:
    table = conform(pa.table({"unknown": [1, 2], **_pair_columns(2)}), PAIR)
    assert table.schema.equals(PAIR, check_metadata=True)
    assert table["image"].to_pylist() == [{"bytes": b"image", "path": None}] * 2
    assert table["confidence"].null_count == table["prompt"].null_count == table["sampler"].null_count == 2
    assert table["origin"].type == pa.dictionary(pa.int32(), pa.string())
    assert conform(table, PAIR).equals(table)


def test_conform_takes_what_ray_makes_of_numpy_batches() -> None:
    """Ray stores equal-length arrays as one tensor type, ragged ones as another, and a column of None as nulls."""
    for class_ids in [[[0, 1], [0, 3]], [[0, 1, 2], [4]], [[], [2]]]:
        batch = {name: np.array(values) for name, values in _pair_columns(2).items() if "class" not in name}
        batch["class_ids"] = _objects([np.array(ids, np.int32) for ids in class_ids])
        batch["class_pixels"] = _objects([np.array(ids, np.int64) for ids in class_ids])
        batch["sampler"] = _objects([None, None])
        batch["confidence"] = _objects([None, b"map"])
        table = conform(BlockAccessor.batch_to_block(batch), PAIR)
        assert table["class_ids"].to_pylist() == table["class_pixels"].to_pylist() == class_ids
        assert table["sampler"].null_count == 2
        assert table["confidence"].to_pylist() == [None, {"bytes": b"map", "path": None}]


def test_conform_takes_the_nan_of_numpy_for_a_null_and_no_large_number_from_it() -> None:
    table = conform(pa.table({**_pair_columns(2), "draws": [2.0, np.nan], "changed_pixels": [np.nan] * 2}), PAIR)
    assert table["draws"].to_pylist() == [2, None] and table["changed_pixels"].null_count == 2
    with pytest.raises(ShardError, match="'seed': double cannot become int64"):
        conform(pa.table({**_pair_columns(2), "seed": [2.0**60, np.nan]}), PAIR)  # its last digits are lost


def test_conform_names_the_column_that_is_wrong() -> None:
    columns = _pair_columns(2)
    with pytest.raises(ShardError, match="'height': 2 of 2 rows have no value"):
        conform(pa.table({name: column for name, column in columns.items() if name != "height"}), PAIR)
    with pytest.raises(ShardError, match="'image': 1 of 2"):
        conform(pa.table({**columns, "image": [b"image", None]}), PAIR)
    with pytest.raises(ShardError, match="'width': string cannot become int32"):
        conform(pa.table({**columns, "width": ["wide", "4"]}), PAIR)


def test_conform_of_no_rows() -> None:
    for schema in (PROMPT, PAIR, ERROR, LATENT):
        assert conform(pa.table({}), schema).equals(schema.empty_table())
