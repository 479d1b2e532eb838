"""What the page says of the scores of pairs, and the copies among them beside their originals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.places import as_given
from pipeline.pages.shown import picture_row, rows_of
from pipeline.runs.config import saved_config
from pipeline.storage.files import is_folder
from pipeline.tables.rows import read_ids, read_shards
from pipeline.tables.scores import BETTER, COLUMNS, Copies, CoverageFile, copies_in, read_coverage
from pipeline.tables.selection import view_of
from pipeline.tables.shards import list_shards

NUM_COPIES = 6
SHARES = (0.05, 0.5, 0.95)
NUM_BARS = 33
"""Of a histogram."""


@dataclass(frozen=True)
class Scored:
    """Scores of a set of pairs.

    Attributes:
        given: their folder, as the user has it.
        rows: name of a score, what is below it in `SHARES` of the pairs, for how many pairs it says something, and
            how many of them lie in each of `NUM_BARS` even steps, of the fullest one.
        copies: None where nobody looked for them.
        coverage: of the set as a whole; None where nobody looked.
        pictures: of the nearest copies: the pair, its original or None where that is not at hand, and the ratio.
    """

    given: str
    rows: Sequence[tuple[str, list[float], int, list[float]]]
    copies: Copies | None
    coverage: CoverageFile | None
    pictures: Sequence[tuple[dict[str, Any], dict[str, Any] | None, float]]


def scored(folder: str, pairs: str, labels: LabelSpace) -> Scored:
    """The scores in a run of jobs.score.

    Raises:
        DataError: no scores, or of other pairs.
        ShardError: a broken shard.
    """
    rows: list[tuple[str, list[float], int, list[float]]] = []
    kinds = [kind for kind in COLUMNS if list_shards(f"{folder}/{kind}")]
    if not kinds:
        raise DataError(f"{as_given(folder)}: no scores; jobs.score makes them")
    ids = read_ids(pairs)
    for kind in kinds:
        names = [name for name in COLUMNS[kind] if name in BETTER]
        table = read_shards([f"{folder}/{kind}"], ["pair_id", *names])
        if not pc.all(pc.is_in(table["pair_id"].slice(0, 1), ids.combine_chunks())).as_py():
            raise DataError(f"{as_given(folder)}: scores of other pairs than those of {as_given(pairs)}")
        for name in names:
            known = table[name].drop_null().to_numpy().astype(np.float64)
            if len(known):
                rows.append((name, np.quantile(known, SHARES).tolist(), len(known), bars_of(known)))
    copies = copies_in(folder)
    pictures = _pictures(copies, pairs, saved_config(folder).get("real") or [], labels) if copies else []
    return Scored(as_given(folder), rows, copies, read_coverage(folder), pictures)


def bars_of(values: np.ndarray) -> list[float]:
    """A histogram of values (N,), without one in a hundred at either end, which would flatten it; 1 is the fullest."""
    low, high = np.quantile(values, (0.01, 0.99))
    counts = np.histogram(values, NUM_BARS, (low, high) if high > low else None)[0]
    return (counts / counts.max()).tolist()


def _pictures(
    copies: Copies, pairs: str, real: Sequence[str], labels: LabelSpace
) -> list[tuple[dict[str, Any], dict[str, Any] | None, float]]:
    first = copies.rows.slice(0, NUM_COPIES)
    made = _by_id(pairs, first["pair_id"], labels)
    originals: dict[str, dict[str, Any]] = {}
    for one in real:
        if is_folder(one):  # a page outlives what it compares with
            originals |= _by_id(view_of(one).folder, first["nearest_id"], labels)
    return [
        (made[row["pair_id"]], originals.get(row["nearest_id"]), row["nearest_ratio"])
        for row in first.to_pylist()
        if row["pair_id"] in made
    ]


def _by_id(folder: str, ids: pa.ChunkedArray, labels: LabelSpace) -> dict[str, dict[str, Any]]:
    rows = rows_of(folder, ids.combine_chunks()).to_pylist()
    return {row["pair_id"]: picture_row(row, labels, f"{folder}: pair {row['pair_id']}") for row in rows}
