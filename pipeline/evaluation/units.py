"""What is independent of each other among the pairs of a test: the photographs behind them, or the pictures."""

from __future__ import annotations

from collections.abc import Container

import pyarrow as pa

from pipeline.base.errors import DataError
from pipeline.tables.conform import conform
from pipeline.tables.rows import has_classes, read_columns
from pipeline.tables.schema import PAIR
from pipeline.tables.selection import view_of
from pipeline.tables.shards import some_shards

KEYS = pa.schema([PAIR.field(name) for name in ("pair_id", "dataset", "key", "class_ids")])


def units_of(folder: str, num_rows: int, wanted: Container[str] | None = None) -> tuple[str, list[str]]:
    """What the first rows with masks of a run, in order of files, belong to: the photograph that a built-in scene was
    laid on, or the picture itself.

    Args:
        folder: of the run, or of a selection of its pairs.
        num_rows: rows at most.
        wanted: ids of the rows that count; None takes all.

    Returns:
        What these are called, and the unit of each row.
    """
    view = view_of(folder)
    tables = (conform(read_columns(path, KEYS.names), KEYS) for path in some_shards(view.folder))
    rows = view.filter(pa.concat_tables(tables))
    rows = rows.filter(has_classes(rows))
    if wanted is not None:
        rows = rows.filter(pa.array([one in wanted for one in rows["pair_id"].to_pylist()], pa.bool_()))
    rows = rows.slice(0, num_rows)
    if set(rows["dataset"].to_pylist()) == {"builtin2"}:
        return "photographs", [photograph_of(key) for key in rows["key"].to_pylist()]
    return "pictures", rows["pair_id"].to_pylist()


def photograph_of(key: str) -> str:
    """The photograph that a pair of builtin2 was laid on, by its key: "000123-grass" -> "grass".

    Raises:
        DataError: the key is not one of builtin2.
    """
    number, dash, name = key.partition("-")
    if not (number.isdecimal() and dash and name):
        raise DataError(f"{key!r} names no photograph; keys of builtin2 do, such as 000123-grass")
    return name
