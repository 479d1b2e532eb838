"""Selection: which pairs of a run are kept. A view: nothing is deleted, and another threshold makes another view.

The folder of a selection stands wherever a job reads pairs in place of the folder of their run. It holds one file with
a row for each pair of that run, and why it is left out.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.base.errors import ShardError
from pipeline.storage.files import is_file, read_bytes
from pipeline.storage.publish import write_bytes
from pipeline.tables.schema import CATEGORY

FILE = "selection.parquet"
SELECTION = pa.schema([("pair_id", pa.string()), ("reason", CATEGORY)])
"""A pair, and why it is left out; null where it is kept."""


@dataclass(frozen=True)
class View:
    """What a folder of pairs stands for.

    Attributes:
        folder: of the run that holds the pairs.
        kept: ids of those that are taken; None takes all.
    """

    folder: str
    kept: pa.Array | None = None

    def within(self, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which of some pairs are taken, bool."""
        return pc.is_valid(ids) if self.kept is None else pc.is_in(ids, self.kept)

    def filter(self, rows: pa.Table) -> pa.Table:
        """Those of some rows with `pair_id` that are taken."""
        return rows if self.kept is None else rows.filter(pc.is_in(rows["pair_id"], self.kept))


def view_of(folder: str) -> View:
    """The pairs that a folder stands for: all of a run, or those that a selection keeps.

    Raises:
        ShardError: a broken selection.
    """
    path = f"{folder.rstrip('/')}/{FILE}"
    if not is_file(path):
        return View(folder)
    try:
        table = pq.read_table(io.BytesIO(read_bytes(path)))
        source = table.schema.metadata[b"pairs"].decode()
        return View(source, table.filter(pc.is_null(table["reason"]))["pair_id"].combine_chunks())
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise ShardError(f"{path}: not a selection ({error}); make it again with jobs.curate") from error


def require_run(folder: str) -> None:
    """Raises ShardError where a folder is a selection, but the run itself is needed."""
    if is_file(f"{folder.rstrip('/')}/{FILE}"):
        raise ShardError(
            f"{folder} is a selection; here the run is needed whose pairs it selects: {view_of(folder).folder}"
        )


def write_selection(folder: str, pairs: str, rows: pa.Table) -> None:
    """Writes the selection in `folder`, whole or not at all.

    Args:
        folder: of the run that selects.
        pairs: folder of the run whose pairs these are.
        rows: as SELECTION.
    """
    file = io.BytesIO()
    table = rows.cast(SELECTION).sort_by("pair_id")
    pq.write_table(table.replace_schema_metadata({"pairs": pairs}), file, compression="zstd")
    write_bytes(f"{folder.rstrip('/')}/{FILE}", file.getvalue())
