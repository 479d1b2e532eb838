"""Pairs as a Ray data set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.storage.files import filesystem_of, is_local
from pipeline.tables.selection import View, view_of
from pipeline.tables.shards import map_shards, open_shard, some_shards

if TYPE_CHECKING:
    from ray.data import Dataset

MAX_RETRIES = 10
"""Of a task that reads and whose process dies; Ray Data would start it again for ever."""


def read_pairs(folders: Sequence[str], columns: list[str] | None = None) -> Dataset:
    """All rows of runs as a lazy Ray data set, for sets of any size.

    Raises:
        ShardError: a folder without shards.
    """
    import ray.data

    views = [view_of(folder) for folder in folders]
    if any(view.kept is not None for view in views):
        read = [_kept(view, columns) for view in views]
        return read[0].union(*read[1:]) if len(read) > 1 else read[0]
    # By their columns: two releases may have written the shards of one run, and Ray reads the same of all files.
    parts: dict[Any, list[str]] = {}
    urls = [url for folder in folders for url in some_shards(folder)]
    for url, names in zip(urls, map_shards(_names, urls), strict=True):
        store, path = filesystem_of(url)
        present = names if columns is None else tuple(name for name in columns if name in names)
        # Ray's own reader of local files is faster than fsspec's, hence None.
        parts.setdefault((None if is_local(url) else store, present), []).append(path)
    read = [
        ray.data.read_parquet(
            paths, columns=columns and list(names), filesystem=store, ray_remote_args={"max_retries": MAX_RETRIES}
        )
        for (store, names), paths in parts.items()
    ]
    return read[0].union(*read[1:]) if len(read) > 1 else read[0]


def _names(path: str) -> tuple[str, ...]:
    with open_shard(path) as file:
        return tuple(file.schema_arrow.names)


def _kept(view: View, columns: list[str] | None) -> Dataset:
    """The rows of a view; ids are read with them."""
    needed = columns if view.kept is None or columns is None else list(dict.fromkeys([*columns, "pair_id"]))
    rows = read_pairs([view.folder], needed)
    if view.kept is None:
        return rows
    return rows.map_batches(
        partial(_asked_for, view=view, columns=columns), batch_format="pyarrow", max_retries=MAX_RETRIES
    )


def _asked_for(rows: pa.Table, *, view: View, columns: list[str] | None) -> pa.Table:
    """Those of some rows that a view takes, with the columns that are asked for and there."""
    taken = view.filter(rows)
    return taken if columns is None else taken.select([name for name in columns if name in taken.column_names])
