"""Which pairs an export takes, and in which parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.formats.part import Part
from pipeline.tables.rows import has_classes, read_columns, read_keys
from pipeline.tables.selection import View
from pipeline.tables.shards import list_shards, map_shards

NAME = "^[A-Za-z0-9_-]+$"
"""What a pair id must be, because files are named by it."""


def parts_of(
    shards: Mapping[str, Sequence[str]],
    views: Mapping[str, Sequence[View]] = MappingProxyType({}),
    *,
    min_confidence: float = 0.0,
    pairs: int = 0,
    scores: str = "",
) -> list[Part]:
    """A part for every shard of which something is taken; the small columns are read, no picture is touched.

    Args:
        shards: paths or URLs by split. A pair that is there twice is taken where it comes first.
        views: what is kept of each, by split; a split that is not there keeps all.
        min_confidence: leaves out generated pairs of a lower mean confidence; others stay, whatever a teacher said.
        scores: folder of a run of scores, of the kind judge; "" is none.
        pairs: takes at most so many of each split, those whose ids are lowest: ids are hashes, so this is a draw, and
            the same one however the pairs are spread over shards. 0 takes all. Pictures without masks are none.

    Raises:
        DataError: a pair in two splits, a split of which nothing is left, or an id that cannot be a file's name.
    """
    found = {split: _rows(paths, views.get(split, ())) for split, paths in shards.items()}
    _refuse_common(found)
    scored = _scored(scores) if scores else None
    parts: list[Part] = []
    first = 1
    for split, pictures in found.items():
        rows = pictures.filter(pictures["has_mask"])
        if rows.num_rows < pictures.num_rows:
            log.warning(
                "%s: %s of %s pictures have no masks and are left out; jobs.label makes some",
                split, f"{pictures.num_rows - rows.num_rows:,}", f"{pictures.num_rows:,}",
            )  # fmt: skip
        taken = _taken(rows, min_confidence, pairs)
        if not taken.num_rows:
            why = "lower min_confidence" if rows.num_rows else "label its pictures first (jobs.label)"
            raise DataError(f"{split}: none of its {rows.num_rows:,} pairs is left; {why}, or leave it out")
        bounds = np.flatnonzero(np.diff(taken["shard"].to_numpy(), prepend=-1, append=-1))
        for index, (begin, end) in enumerate(pairwise(bounds)):
            path = shards[split][taken["shard"][int(begin)].as_py()]
            places = taken["row"].to_numpy()[begin:end]
            of_scores = scored.of(taken["pair_id"].slice(begin, end - begin)) if scored else ()
            parts.append(Part(split, index, len(bounds) - 1, first, path, places, of_scores))
            first += len(places)
    return parts


class _Scored(NamedTuple):
    """Shards of scores, the ids of all their pairs, and the shard of each."""

    paths: list[str]
    ids: pa.Array
    shard: np.ndarray

    def of(self, ids: pa.ChunkedArray) -> tuple[str, ...]:
        """The shards that hold the scores of some pairs."""
        places = pc.index_in(ids, self.ids).drop_null().to_numpy()
        return tuple(self.paths[number] for number in np.unique(self.shard[places]).tolist())


def _scored(folder: str) -> _Scored:
    part = f"{folder.rstrip('/')}/judge"
    if not (paths := list_shards(part)):
        raise DataError(f"{folder}: no scores of the kind judge, whose noise maps are needed; make them: jobs.score")
    keys = map_shards(read_keys, paths)
    ids = pa.chunked_array([chunk for one in keys for chunk in one.chunks], pa.string()).combine_chunks()
    return _Scored(paths, ids, np.repeat(np.arange(len(paths)), [len(one) for one in keys]))


def _rows(paths: Sequence[str], views: Sequence[View]) -> pa.Table:
    """One row per picture, in order: `pair_id`, `confidence_mean`, `synthetic`, `has_mask`, `shard` (a place in
    `paths`), `row` (a place there)."""
    tables = map_shards(lambda path: read_columns(path, ["pair_id", "confidence_mean", "origin", "class_ids"]), paths)
    columns = {
        "pair_id": pa.chunked_array([chunk for one in tables for chunk in one["pair_id"].chunks], pa.string()),
        "confidence_mean": pa.chunked_array(
            [chunk.cast(pa.float32()) for one in tables for chunk in one["confidence_mean"].chunks], pa.float32()
        ),
        "synthetic": pa.chunked_array(
            [pc.equal(chunk, "synthetic") for one in tables for chunk in one["origin"].chunks], pa.bool_()
        ),
        "has_mask": np.concatenate([has_classes(one) for one in tables]),
        "shard": np.repeat(np.arange(len(tables)), [one.num_rows for one in tables]),
        "row": np.concatenate([np.arange(one.num_rows) for one in tables]),
    }
    views = views or [View(path) for path in paths]
    kept = [view.within(one["pair_id"]) for view, one in zip(views, tables, strict=True)]
    rows = pa.table(columns).filter(pa.chunked_array([chunk for one in kept for chunk in one.chunks], pa.bool_()))
    wrong = rows.filter(pc.invert(pc.match_substring_regex(rows["pair_id"], NAME)))
    if wrong.num_rows:
        raise DataError(
            f"{paths[wrong['shard'][0].as_py()]}: pair id {wrong['pair_id'][0].as_py()!r} cannot name a file; ids hold "
            "letters, digits, - and _, as those of ingest and generate do"
        )
    return rows


def _refuse_common(found: Mapping[str, pa.Table]) -> None:
    for (one, rows), (other, others) in combinations(found.items(), 2):
        both = rows.filter(pc.is_in(rows["pair_id"], others["pair_id"].combine_chunks()))
        if both.num_rows:
            raise DataError(
                f"{both.num_rows:,} pairs of {one} are in {other} too, the first is {both['pair_id'][0].as_py()}; what "
                "is learnt from one could not be judged by the other. Give each split folders of its own"
            )


def _taken(rows: pa.Table, min_confidence: float, pairs: int) -> pa.Table:
    places = pa.table({"pair_id": rows["pair_id"], "place": np.arange(rows.num_rows)})
    rows = rows.take(places.group_by("pair_id", use_threads=False).aggregate([("place", "min")])["place_min"].sort())
    unsure = pc.fill_null(pc.less(rows["confidence_mean"], pa.scalar(min_confidence, pa.float32())), False)
    rows = rows.filter(pc.invert(pc.and_(rows["synthetic"], unsure)))
    if pairs and pairs < rows.num_rows:
        rows = rows.take(np.sort(pc.sort_indices(rows["pair_id"]).to_numpy()[:pairs]))
    return rows
