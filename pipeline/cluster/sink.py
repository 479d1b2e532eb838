"""ShardSink: where a Ray Data graph ends."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Datasink

from pipeline.cluster.progress import Shared
from pipeline.cluster.tasks import MAX_RETRIES
from pipeline.storage.files import filesystem_of, is_local
from pipeline.tables.conform import conform
from pipeline.tables.schema import ERROR, PAIR, REASONS
from pipeline.tables.shards import FAILED, MADE, write_table

SHARD_BYTES = 384 * 10**6
WRITE_ARGS = {"num_cpus": 0.5, "max_retries": MAX_RETRIES}
"""`ray_remote_args` for `write_datasink`. They must differ from those of the stage before: Ray fuses a write with a
stage of equal needs, and would then bundle what goes into that stage (raw pictures), not what comes out of it."""


class ShardSink(Datasink):
    """Writes packed rows as shards into a run's folder: `dataset.write_datasink(sink, ray_remote_args=WRITE_ARGS)`.

    Rows whose column `error` is not empty go to `errors/`, with `error` as the reason (one of REASONS) and
    `error_detail`, if there is one, as the detail.

    Args:
        folder: the run's, a path that every node sees or an fsspec URL.
        rows_per_shard: rows that a shard holds, give or take half of it; the last ones of a run may hold fewer, and so
            do those of rows so large that it would hold more than `shard_bytes`. 0 goes by `shard_bytes`, give or take
            a third.
        schema: of the rows that were made.
        shard_bytes: bytes of a shard.
        shared: is told what was written.
    """

    def __init__(
        self,
        folder: str,
        rows_per_shard: int = 0,
        schema: pa.Schema = PAIR,
        *,
        shard_bytes: int = SHARD_BYTES,
        shared: Shared | None = None,
    ) -> None:
        folder = folder.rstrip("/")
        # Absolute, because a worker's current folder is not the driver's.
        self.folder = filesystem_of(folder)[1] if is_local(folder) else folder
        self.rows_per_shard = rows_per_shard
        self.shard_bytes = shard_bytes
        self.schema = schema
        self.shared = shared

    @property
    def min_rows_per_write(self) -> int | None:
        return self.rows_per_shard or None

    @property
    def min_bytes_per_write(self) -> int | None:
        return None if self.rows_per_shard else self.shard_bytes

    def write(self, blocks: Iterable[Any], ctx: Any) -> list[str]:
        """Writes the rows of one task; returns the file names of its shards."""
        began = time.perf_counter()
        made, failed = [self.schema.empty_table()], [ERROR.empty_table()]
        for block in blocks:
            rows = block if isinstance(block, pa.Table) else pa.Table.from_pandas(block, preserve_index=False)
            # Cast before they are joined: Ray takes a block's types from its values, so they differ between blocks.
            for tables, part, schema in zip((made, failed), split_errors(rows), (self.schema, ERROR), strict=True):
                tables.append(conform(part, schema))
        rows, errors = pa.concat_tables(made), pa.concat_tables(failed)
        names = [*self._write_pieces(rows, MADE), *self._write_pieces(errors, FAILED)]
        if self.shared:
            num_rows, num_bytes = rows.num_rows + errors.num_rows, rows.nbytes + errors.nbytes
            self.shared.worked("write", num_rows, time.perf_counter() - began, num_bytes)
        return names

    def _write_pieces(self, table: pa.Table, kind: str) -> list[str]:
        if not table.num_rows:
            return []
        # Even pieces near the wanted size: what Ray bundles is a little over it, and the rest would be a tiny shard.
        # Ray bundles by rows or by bytes, not by both; a file is bounded by both.
        by_rows = table.num_rows / self.rows_per_shard if self.rows_per_shard else 0.0
        wanted = max(by_rows, table.nbytes / self.shard_bytes)
        num_pieces = min(table.num_rows, max(1, round(wanted)))
        cuts = [table.num_rows * piece // num_pieces for piece in range(num_pieces + 1)]
        return [write_table(table.slice(a, b - a), f"{self.folder}/{kind}") for a, b in pairwise(cuts)]


def split_errors(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Splits rows that were made from rows that were not, whose columns get the names that ERROR has.

    Raises:
        ValueError: an `error` that is not one of REASONS.
    """
    if "error" not in rows.column_names:
        return rows, rows.slice(0, 0).append_column("reason", pa.nulls(0, pa.string()))
    reasons = pc.fill_null(rows["error"].cast(pa.string()), "")
    failed = pc.not_equal(reasons, "")
    unknown = set(pc.unique(reasons.filter(failed)).to_pylist()) - set(REASONS)
    if unknown:
        raise ValueError(f"error {sorted(unknown)} is not one of {REASONS}")
    renamed = {"error": "reason", "error_detail": "detail"}
    errors = rows.filter(failed)
    return rows.filter(pc.invert(failed)), errors.rename_columns([renamed.get(n, n) for n in errors.column_names])
