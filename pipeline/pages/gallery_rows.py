"""What a gallery knows of its pairs: all small columns, their scores, and which real pair each is most like."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.places import absolute, as_given
from pipeline.pages.gallery_pictures import ROWS_PER_PART, Part
from pipeline.runs.config import saved_config
from pipeline.storage.files import is_folder
from pipeline.tables.rows import read_columns, read_shards
from pipeline.tables.schema import PICTURE
from pipeline.tables.scores import COLUMNS
from pipeline.tables.selection import view_of
from pipeline.tables.shards import list_shards, map_shards, open_shard, shard_bytes, some_shards

SHARD, PLACE, RUN, NEAREST = "_shard", "_place", "_run", "_nearest"
"""Columns beside those of the pairs: number of the shard, row in it, number of the run, and number in the gallery of
the real pair that is most like it (null where that is not known or not at hand)."""
SHOWN_BY = ("pair_id", "class_ids", "class_pixels", "image_digest")
"""Columns that are others where a picture or mask is another, although its shard has the same name and size."""


@dataclass(frozen=True)
class Source:
    """A run, or what a selection keeps of it.

    Attributes:
        name: what the page calls it.
        folder: of the run that holds the pairs, as every machine finds it.
        given: the same as the user wrote it, for commands to copy.
        bundle: that made it, as it was given there; "" where that is not known.
        hidden: it holds what others are compared with, and is shown only when asked for.
    """

    name: str
    folder: str
    given: str
    bundle: str
    hidden: bool = False


@dataclass(frozen=True)
class Rows:
    """The pairs of a gallery, in its order: by run, and in each as its shards hold them.

    Attributes:
        sources: the runs.
        table: a row for each pair: small columns of PAIR, scores, and SHARD, PLACE, RUN and NEAREST.
        shards: paths.
        scores: names of the columns that are scores.
    """

    sources: Sequence[Source]
    table: pa.Table
    shards: Sequence[str]
    scores: Sequence[str]

    @property
    def beside(self) -> str:
        """What is said of real pairs that others are most like, which are shown when they are asked for."""
        hidden = [number for number, source in enumerate(self.sources) if source.hidden]
        num = int(np.isin(self.table[RUN].to_numpy(), hidden).sum())
        return f" (of these {num:,} real ones that others are most like)" if num else ""

    def parts(self, num_large: int) -> list[Part]:
        """What is made one by one; at most `num_large` pairs are kept large (`drawn`)."""
        large = drawn(self.table["pair_id"], num_large)
        content = self.table.select([name for name in SHOWN_BY if name in self.table.column_names])
        shards, places = (self.table[name].to_numpy() for name in (SHARD, PLACE))
        ends = np.flatnonzero(np.diff(shards, prepend=-1, append=-1))
        sizes = dict(zip(self.shards, map_shards(shard_bytes, self.shards), strict=True))
        parts = []
        for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            shard = self.shards[int(shards[begin])]
            for first in range(begin, end, ROWS_PER_PART):
                here = slice(first, min(first + ROWS_PER_PART, end))
                digest = table_digest(content.slice(first, here.stop - first))
                parts.append(Part(shard, sizes[shard], places[here], large[here], first, digest))
        return parts


def drawn(ids: pa.ChunkedArray, most: int) -> np.ndarray:
    """(N,) bool, which of N pairs are kept where at most `most` can be: all, or the half, quarter and so on, by a hash
    of their ids, that is not above. So what is kept of a set stays until the set has about twice as many pairs."""
    if len(ids) <= most or not most:
        return np.full(len(ids), bool(most))
    hashes = np.fromiter((zlib.crc32(one.encode()) for chunk in ids.chunks for one in chunk.to_pylist()), np.uint32)
    kept = np.ones(len(hashes), bool)
    for bit in range(32):
        if kept.sum() <= most:
            break
        kept &= (hashes >> bit) & 1 == 0
    return kept


def table_digest(table: pa.Table) -> str:
    """16 hex digits of what a table holds; columns that are null throughout count as not there."""
    found = blake2b(digest_size=8)
    for name in table.column_names:
        column = table[name].combine_chunks()
        if column.null_count == len(column):
            continue
        if pa.types.is_dictionary(column.type):
            found.update(repr(column.dictionary.to_pylist()).encode())
            column = column.indices
        found.update(name.encode() + pa.record_batch([column], [name]).serialize())
    return found.hexdigest()


def read_rows(pairs: Sequence[str], scores: Sequence[str], labels: LabelSpace) -> Rows:
    """The pairs of runs and selections with what is said of them; no picture is read.

    Args:
        pairs: folders.
        scores: folders of runs of jobs.score.
        labels: of all of them.

    Raises:
        DataError: scores of other pairs, or a folder without any.
        ShardError: a folder without shards, or a broken shard.
    """
    shards: list[str] = []
    tables = [_of_run(folder, number, shards) for number, folder in enumerate(pairs)]
    table = _joined(tables)
    sources = _named([_source(folder) for folder in pairs], pairs)
    found = _scores(scores, table["pair_id"])
    for name, column in found.items():
        table = table.append_column(name, column)
    nearest = pa.nulls(table.num_rows, pa.int32())
    if "nearest_id" in found:
        originals = _originals(scores, found["nearest_id"], table["pair_id"], len(sources), shards)
        if originals:
            sources.append(Source("nearest real pairs", *originals[0], "", hidden=True))
            table = _joined([table, originals[1]])
        ids = table["pair_id"].combine_chunks()
        nearest = pc.index_in(table["nearest_id"], ids) if "nearest_id" in table.column_names else nearest
        nearest = pc.if_else(pc.is_valid(table["nearest_id"]), nearest, None)
    table = table.append_column(NEAREST, nearest)
    return Rows(sources, _with_shares(table, labels), shards, [name for name in found if name in table.column_names])


def _of_run(folder: str, number: int, shards: list[str], only: pa.Array | None = None) -> pa.Table:
    """The small columns of a run or selection, each pair once; its shards are added to `shards`."""
    view = view_of(folder)
    paths = some_shards(view.folder)
    tables = map_shards(_small, paths)
    for place, table in enumerate(tables):
        extra = {SHARD: np.full(table.num_rows, len(shards) + place, np.int32), PLACE: np.arange(table.num_rows)}
        for name, values in {**extra, RUN: np.full(table.num_rows, number, np.int32)}.items():
            tables[place] = tables[place].append_column(name, pa.array(values))
        tables[place] = view.filter(tables[place])
        if only is not None:
            tables[place] = tables[place].filter(pc.is_in(tables[place]["pair_id"], only))
    shards.extend(paths)
    rows = _joined(tables)
    codes = rows["pair_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    if rows.num_rows and codes.max() + 1 < rows.num_rows:  # written twice, by a machine that was lost
        rows = rows.take(np.sort(np.unique(codes, return_index=True)[1]))
    return rows


def _small(path: str) -> pa.Table:
    """The columns of a shard that hold no pictures."""
    with open_shard(path) as file:
        schema = file.schema_arrow
    names = [field.name for field in schema if field.type != PICTURE and not pa.types.is_binary(field.type)]
    return read_columns(path, names)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()


def _source(folder: str) -> Source:
    view = view_of(folder)
    given = as_given(folder) if view.kept is None else view.folder
    bundle = str(saved_config(view.folder).get("bundle") or "")
    return Source(absolute(folder).rstrip("/").rpartition("/")[2], absolute(view.folder), given, bundle)


def _named(sources: list[Source], folders: Sequence[str]) -> list[Source]:
    """The same with names that differ: by the folders that were given, since selections may be of one run."""
    names = [one.name for one in sources]
    return [
        one if names.count(one.name) == 1 else replace(one, name=f"{one.name} ({as_given(folder)})")
        for one, folder in zip(sources, folders, strict=True)
    ]


def _scores(folders: Sequence[str], ids: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """Score -> the values of pairs, null where none is known."""
    found: dict[str, pa.ChunkedArray] = {}
    for folder in folders:
        kinds = [kind for kind in COLUMNS if list_shards(f"{folder}/{kind}")]
        if not kinds:
            raise DataError(f"scores: {as_given(folder)}: no scores; jobs.score makes them")
        any_known = False
        for kind in kinds:
            names = [name for name, type_ in COLUMNS[kind].items() if type_ != PICTURE]
            scored = read_shards([f"{folder}/{kind}"], ["pair_id", *names])
            places = pc.index_in(ids, scored["pair_id"].combine_chunks())
            any_known |= places.null_count < len(places)
            for name in names:
                column = scored[name].take(places)
                found[name] = pc.coalesce(found[name], column) if name in found else column
        if not any_known:
            raise DataError(f"scores: {as_given(folder)}: scores of none of these pairs; give those made of them")
    return found


def _originals(
    scores: Sequence[str], nearest: pa.ChunkedArray, there: pa.ChunkedArray, number: int, shards: list[str]
) -> tuple[tuple[str, str], pa.Table] | None:
    """Folder (and as it is shown) and rows of the real pairs that others are most like, but for those that are there;
    None where no such is at hand."""
    wanted = pc.unique(nearest.combine_chunks()).drop_null()
    wanted = wanted.filter(pc.invert(pc.is_in(wanted, there.combine_chunks())))
    real = dict.fromkeys(one for folder in scores for one in saved_config(folder).get("real") or ())
    here = [folder for folder in real if is_folder(folder) and list_shards(view_of(folder).folder)]
    tables = [one for folder in here if (one := _of_run(folder, number, shards, wanted)).num_rows]
    return ((here[0], here[0]), _joined(tables)) if tables else None


def _with_shares(table: pa.Table, labels: LabelSpace) -> pa.Table:
    """The same with two numbers more: `num_classes`, and `object_share`, of pixels that show one; null without mask."""
    lists, pixels = table["class_ids"].combine_chunks(), table["class_pixels"].combine_chunks()
    num, parent = table.num_rows, pc.list_parent_indices(lists).to_numpy()
    ids, areas = pc.list_flatten(lists).to_numpy(), pc.list_flatten(pixels).to_numpy()
    is_object = (ids > 0) & (ids <= labels.num_classes)
    total = np.bincount(parent, areas, num)
    bare = total == 0
    count = pa.array(np.bincount(parent[is_object], minlength=num).astype(np.int32), mask=bare)
    share = np.bincount(parent[is_object], areas[is_object], num) / np.maximum(total, 1)
    return table.append_column("num_classes", count).append_column(
        "object_share", pa.array(share.astype(np.float32), mask=bare)
    )
