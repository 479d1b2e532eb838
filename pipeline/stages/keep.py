"""KeepPlanned: what a run holds already is not made again. Imports little, since it runs in tasks of its own."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


class KeepPlanned:
    """Stage: drops the rows whose `column` is not planned: what is there already. Rows stay where the text in the
    column `failed` says why they could not be made."""

    def __init__(self, planned: pa.Table, column: str, failed: str = "") -> None:
        self.keys, self.column, self.failed = pc.unique(planned[column]), column, failed

    def __call__(self, rows: pa.Table) -> pa.Table:
        kept = pc.is_in(rows[self.column].cast(pa.string()), self.keys)
        if self.failed:
            kept = pc.or_(kept, pc.not_equal(rows[self.failed].cast(pa.string()), ""))
        return rows.filter(kept)
