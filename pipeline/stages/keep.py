"""KeepPlanned: what a run holds already is not made again. Imports little, since it runs in tasks of its own."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


class KeepPlanned:
    """Stage: drops the rows whose `column` is not planned: what is there already."""

    def __init__(self, planned: pa.Table, column: str) -> None:
        self.keys, self.column = pc.unique(planned[column]), column

    def __call__(self, rows: pa.Table) -> pa.Table:
        return rows.filter(pc.is_in(rows[self.column].cast(pa.string()), self.keys))
