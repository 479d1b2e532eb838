"""Contents: which pictures of two runs are the same, whatever they are called, by a digest of their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import pyarrow as pa

from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.pictures.codec import decode_image
from pipeline.pictures.photograph import content_digest
from pipeline.tables.conform import conform
from pipeline.tables.pairs import encoded
from pipeline.tables.schema import PAIR
from pipeline.tables.selection import view_of
from pipeline.tables.shards import map_shards, open_shard, some_shards

COLUMNS = pa.schema([PAIR.field(name) for name in ("pair_id", "origin", "image_digest")])
MAX_DECODED = 20_000
"""Pictures of a run without digests, of an earlier release, that are decoded to compare them: minutes at most."""


def contents_of(folder: str) -> dict[str, str]:
    """Pair id -> digest of its picture, of the pairs of a run or a selection whose pictures are real; those of a run of
    an earlier release are decoded, where they are not too many. A run of other tables has none.

    Raises:
        ShardError: a folder without shards, or a broken shard.
    """
    view = view_of(folder)
    paths = some_shards(view.folder)
    with open_shard(paths[0]) as file:
        if not {"image", "origin"} <= set(file.schema_arrow.names):
            return {}
    tables = map_shards(_small_columns, paths)
    rows = [row for table in tables for row in view.filter(table).to_pylist() if row["origin"] != "synthetic"]
    known = {row["pair_id"]: row["image_digest"] for row in rows if row["image_digest"]}
    unknown = {row["pair_id"] for row in rows} - known.keys()
    if len(unknown) > MAX_DECODED:
        log.warning(
            "%s: read by an earlier release, so that nothing says whether other runs hold its pictures too; ingest "
            "them again to know", folder,
        )  # fmt: skip
        return known
    return {**known, **_decoded(tuple(paths), frozenset(unknown))}


def _small_columns(path: str) -> pa.Table:
    with open_shard(path) as file:
        names = [name for name in COLUMNS.names if name in file.schema_arrow.names]
        return conform(file.read(columns=names, use_threads=False), COLUMNS)


@lru_cache(8)
def _decoded(paths: tuple[str, ...], ids: frozenset[str]) -> Mapping[str, str]:
    """Digests of pictures that have none. A config is checked before Ray starts and again by its job; shards are named
    by what is in them."""
    found: dict[str, str] = {}
    for path in paths if ids else []:
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group, ["pair_id", "image"], use_threads=False).to_pylist():
                    if row["pair_id"] not in ids:
                        continue
                    try:
                        found[row["pair_id"]] = content_digest(decode_image(encoded(row, "image"), row["pair_id"]))
                    except DataError:
                        continue  # a damaged picture is told by whoever needs it
    return found
