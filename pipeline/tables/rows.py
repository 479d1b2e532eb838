"""Rows: reading the small columns of many shards, and what is still missing from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.base.errors import ShardError
from pipeline.tables.conform import conform
from pipeline.tables.schema import PAIR
from pipeline.tables.selection import view_of
from pipeline.tables.shards import FAILED, MADE, list_shards, map_shards, open_shard, some_shards

Which = Literal["all", "labelled", "unlabelled"]
"""Which pictures: all, those with masks, or those without."""
TEXTS = pa.schema([PAIR.field(name) for name in ("pair_id", "prompt", "captions", "class_ids", "prompt_class_ids")])
"""The columns of PAIR that say what a prompt may be made of."""


def read_columns(path: str, columns: list[str] | None = None) -> pa.Table:
    """One shard; of `columns`, those that it has."""
    with open_shard(path) as file:
        present = columns and [name for name in columns if name in file.schema_arrow.names]
        return file.read(columns=present, use_threads=False)


def read_keys(path: str) -> pa.ChunkedArray:
    """The first column of a shard."""
    with open_shard(path) as file:
        return file.read(columns=file.schema_arrow.names[:1], use_threads=False).column(0)


def with_masks(file: pq.ParquetFile) -> np.ndarray:
    """(N,) bool: which rows of an open shard of pairs have masks. Where its footer says that all have, none is read."""
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    found = [group.column(n) for group in groups for n in range(group.num_columns)]
    counted = [one.statistics for one in found if one.path_in_schema.startswith("class_ids.")]
    # A list without values counts as a null.
    if all(one is not None and one.has_null_count and not one.null_count for one in counted):
        return np.ones(metadata.num_rows, bool)
    return has_classes(file.read(columns=["class_ids"], use_threads=False))


def with_prompts(file: pq.ParquetFile) -> np.ndarray:
    """(N,) bool: which rows of an open shard have prompts; all of a table that knows none."""
    if "prompt" not in file.schema_arrow.names:
        return np.ones(file.metadata.num_rows, bool)
    return file.read(columns=["prompt"], use_threads=False)["prompt"].is_valid().to_numpy()


def has_classes(rows: pa.Table) -> np.ndarray:
    """(N,) bool: which rows of PAIR have a mask, by their classes."""
    lengths = pc.fill_null(pc.list_value_length(rows["class_ids"]), 0)
    return pc.greater(lengths, 0).to_numpy()


def read_ids(folder: str, column: str = "pair_id", kinds: Sequence[str] = (MADE, FAILED)) -> pa.ChunkedArray:
    """The values of a string column in all shards of a run; a run that has none yet gives none."""
    paths = [path for kind in kinds for path in list_shards(folder, kind)]
    chunks = map_shards(lambda path: read_columns(path, [column]), paths)
    return pa.chunked_array(
        [chunk for table in chunks if column in table.column_names for chunk in table[column].chunks], pa.string()
    )


def remaining(plan: pa.Table, folder: str, retry_errors: bool = False, key: str = "pair_id") -> pa.Table:
    """The rows of `plan` that a run has not made.

    Args:
        plan: a table with the columns `key` and `pair_id`.
        folder: the run's.
        retry_errors: also gives the rows that failed before.
        key: the first column of the run's table.
    """
    wanted = pc.invert(pc.is_in(plan[key], read_ids(folder, key, [MADE])))
    if not retry_errors:
        wanted = pc.and_not(wanted, pc.is_in(plan["pair_id"], read_ids(folder, "pair_id", [FAILED])))
    return plan.filter(wanted)


def read_shards(folders: Sequence[str], columns: list[str] | None = None) -> pa.Table:
    """All rows of runs and selections, in memory: for small sets or few columns.

    Raises:
        ShardError: a folder without shards, a broken shard, or a column that no shard has.
    """
    rows = pa.concat_tables(_read(folders, columns), promote_options="permissive")
    absent = set(columns or ()).difference(rows.column_names)
    if absent:
        raise ShardError(f"no shard in {', '.join(folders)} has a column {', '.join(sorted(absent))}")
    return rows


def read_texts(folders: Sequence[str]) -> pa.Table:
    """The columns TEXTS of all rows of runs, in the order of ids; those that an older release did not write are null.

    Raises:
        ShardError: a folder without shards, or a broken shard.
    """
    return pa.concat_tables(conform(one, TEXTS) for one in _read(folders, TEXTS.names)).sort_by("pair_id")


def _read(folders: Sequence[str], columns: list[str] | None) -> list[pa.Table]:
    """The rows of each shard of runs and selections."""
    tables: list[pa.Table] = []
    for folder in folders:
        view = view_of(folder)
        needed = columns if view.kept is None or columns is None else list(dict.fromkeys([*columns, "pair_id"]))
        read = map_shards(partial(read_columns, columns=needed), some_shards(view.folder))
        tables += [view.filter(one) if needed == columns else view.filter(one).select(columns) for one in read]
    return tables


def left_out(folder: str) -> dict[str, str]:
    """Pair id -> why a run could not make it at the last try; pairs that a later try made are not among them."""
    rows = [read_columns(path, ["pair_id", "detail"]).to_pylist() for path in list_shards(folder, FAILED)]
    why = {row["pair_id"]: row["detail"] for one in rows for row in one}
    made = set(read_ids(folder, kinds=[MADE]).to_pylist())
    return {key: detail for key, detail in sorted(why.items()) if key not in made}
