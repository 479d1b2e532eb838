"""Healing: rows that are there twice, shards that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.base.errors import ShardError
from pipeline.base.log import log
from pipeline.storage.files import filesystem_of, reaching, read_bytes
from pipeline.tables.rows import read_columns, read_keys
from pipeline.tables.shards import (
    BROKEN,
    FAILED,
    MADE,
    list_shards,
    map_shards,
    write_table,
)


def remove_shards(paths: Iterable[str]) -> None:
    """Removes shards whose rows are elsewhere."""
    for path in paths:
        filesystem, inner = filesystem_of(path)
        with suppress(FileNotFoundError), reaching(path):
            filesystem.rm_file(inner)


def set_aside_broken(folder: str) -> list[str]:
    """Moves shards that cannot be read from a run's `shards/` and `errors/` to `broken/`, so that their rows are made
    again and nothing is deleted; returns where they are now."""

    moved = []
    paths = [path for kind in (MADE, FAILED) for path in list_shards(folder, kind)]
    for path in [path for path, broken in zip(paths, map_shards(_is_broken, paths), strict=True) if broken]:
        target = f"{folder.rstrip('/')}/{BROKEN}/{path.rsplit('/', 1)[-1]}"
        filesystem, inner = filesystem_of(path)
        with reaching(path):
            filesystem.makedirs(filesystem_of(f"{folder}/{BROKEN}")[1], exist_ok=True)
            filesystem.mv(inner, filesystem_of(target)[1])
        moved.append(target)
    return moved


def _is_broken(path: str) -> bool:
    """Whether a file's bytes are no shard. That they cannot be reached just now is another matter, and an error."""
    try:
        read_keys(path)
        return False
    except ShardError as unread:
        content = read_bytes(path)
        try:
            with pq.ParquetFile(io.BytesIO(content)) as file:
                file.read(columns=file.schema_arrow.names[:1], use_threads=False)
        except (pa.ArrowException, OSError):
            return True
        raise unread


def merge(paths: list[str]) -> str:
    """Writes one shard that holds what several of one folder do; returns its path. Nothing is removed here: a task may
    run again, or outlive its driver."""
    tables = sorted(map(read_columns, paths), key=lambda one: -one.num_columns)  # earlier releases wrote fewer
    table = pa.concat_tables(tables, promote_options="default")
    folder = paths[0].rsplit("/", 1)[0]
    return f"{folder}/{write_table(table, folder)}"


def heal(folder: str) -> list[str]:
    """Finds rows that a run holds twice, and writes what else is in the shards that hold them; returns the shards that
    are then to be removed. Nothing is removed here, as in `merge`.

    Such rows come from Ray running a lost block again with other boundaries, from tasks that outlive a killed driver by
    a moment, and from a compaction that was killed.
    """
    paths = list_shards(folder)
    columns = dict(zip(paths, map_shards(read_keys, paths), strict=True))
    keys = pa.chunked_array([chunk for column in columns.values() for chunk in column.chunks], pa.string())
    if len(pc.unique(keys)) == len(keys):
        return []
    counts = pc.value_counts(keys)
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    kept = pa.array([], pa.string())
    written: set[str] = set()
    replaced: list[str] = []
    for path in sorted(paths, key=lambda path: -len(columns[path])):  # a merged shard wins over its parts
        own = columns[path].combine_chunks()
        first = np.zeros(len(own), bool)
        first[np.unique(own.to_numpy(zero_copy_only=False), return_index=True)[1]] = True
        wanted = pc.and_not(pa.array(first), pc.is_in(own, kept))
        if not pc.all(wanted).as_py():
            rows = read_columns(path).filter(wanted)
            if rows.num_rows:
                directory = path.rsplit("/", 1)[0]
                written.add(f"{directory}/{write_table(rows, directory)}")
            replaced.append(path)
        kept = pa.concat_arrays([kept, own.filter(pc.is_in(own, doubled))])
    log.warning("%s: %d rows were there twice, as a lost machine can cause; one of each is kept", folder, len(doubled))
    # Names follow from content: what is left of one shard may be just what another one was, or is.
    return [path for path in replaced if path not in written]
