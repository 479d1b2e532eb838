"""The order of a training's rows: which it takes of each folder, and which of them stands at each position.

An epoch is a line: the row groups of all shards in a drawn order, and in each of them the rows in a drawn order. The
line is cut into as many lanes as a batch has rows; each batch takes the next row of every lane. So the rows of a batch
come from as many row groups, every row is seen once an epoch whatever the number of workers, and a worker reads little
but the row groups of its own lanes. Any step can be gone on with at once: the order is arithmetic on (seed, epoch).

Where folders have shares, each is a line of its own, and the rows of a batch take turns.

Legend: N rows of a set, G row groups, B rows of a batch and lanes, b of them this worker's, F folders.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.base.errors import ConfigError, ShardError
from pipeline.base.log import log
from pipeline.base.turns import schedule
from pipeline.storage.files import is_local
from pipeline.tables.label_space import load_labels
from pipeline.tables.rows import Which, has_classes, read_columns, read_shards, with_masks, with_prompts
from pipeline.tables.selection import View, view_of
from pipeline.tables.shards import map_shards, open_shard, some_shards

LEAST_HELD_OUT = 30
"""Labelled pairs that are held out to judge on."""
SLICE = re.compile(r"(\d*):(\d*)")


class Group(NamedTuple):
    """Rows of a row group that are taken, (N,) int64, some more than once, and the folder that they are of."""

    path: str
    number: int
    rows: np.ndarray
    folder: int


def bounds(text: str) -> tuple[int, float]:
    """ "START:STOP" -> both; what is left out is the beginning or the end.

    Raises:
        ValueError: says what a slice looks like.
    """
    if not (found := SLICE.fullmatch(text)):
        raise ValueError(f"{text!r} is no slice; write START:STOP, such as 0:512 or 512:")
    start, stop = int(found[1] or 0), int(found[2]) if found[2] else math.inf
    if start >= stop:
        raise ValueError(f"the slice {text!r} holds nothing; its start must be less than its stop")
    return start, stop


def _bounds_within(there: int, text: str, folder: str) -> tuple[int, float]:
    """The bounds of a slice of a folder of so many pairs; a ShardError where they ask for more."""
    start, stop = bounds(text)
    if (stop if math.isfinite(stop) else start + (text != ":")) > there:
        raise ShardError(f"{folder}: the slice {text} asks for more than its {there:,} pairs; make more, or correct it")
    return start, stop


def ids_of(folder: str, part: str = ":", which: Which = "all") -> list[str]:
    """The ids of the pairs in a slice of a folder, ascending: of all, of those with masks, or of those without.

    Raises:
        ShardError: a folder without shards, a broken shard, or a slice that asks for more than there is.
    """
    rows = read_shards([folder], ["pair_id", "class_ids"] if which != "all" else ["pair_id"])
    ids = rows["pair_id"].unique().sort()
    start, stop = _bounds_within(len(ids), part or ":", folder)
    ids = ids[start : int(min(stop, len(ids)))]
    if which != "all":
        these = rows["pair_id"].filter(has_classes(rows) == (which == "labelled"))
        ids = ids.filter(pc.is_in(ids, these.combine_chunks()))
    return ids.to_pylist()


def tables_of(
    folders: Sequence[str], slices: Sequence[str], columns: Sequence[str], *, labelled: bool = False
) -> Iterator[pa.Table]:
    """Some columns of the rows that `groups_of` takes, a row group at a time."""
    for group in groups_of(folders, slices, labelled=labelled):
        with open_shard(group.path) as file:
            yield file.read_row_group(group.number, list(columns), use_threads=False).take(group.rows)


def cut_behind(folder: str, part: str, which: Which, number: int) -> int:
    """Where a slice of a folder is to be cut so that it holds the first `number` pictures of a kind and no more."""
    start, stop = bounds(part or ":")
    kind = ids_of(folder, part, which)
    if number >= len(kind):
        return int(min(stop, len(ids_of(folder))))
    return int(start) + ids_of(folder, part).index(kind[number])


def parted(folder: str, part: str, share: float) -> tuple[str, str]:
    """A slice of a folder in two: to train on, and one that holds a share of its labelled pairs, to judge on; at least
    LEAST_HELD_OUT of them, since fewer say little.

    Raises:
        ConfigError: too few labelled pairs.
    """
    num = len(ids_of(folder, part, "labelled"))
    if num < 2 * LEAST_HELD_OUT:
        raise ConfigError(
            f"validation: {folder} has {num} labelled pairs, too few to hold {LEAST_HELD_OUT} out; give a run of "
            "labelled pairs to judge on"
        )
    cut = cut_behind(folder, part, "labelled", num - max(LEAST_HELD_OUT, round(share * num)))
    end = cut_behind(folder, part, "all", len(ids_of(folder)))
    return f"{int(bounds(part or ':')[0])}:{cut}", f"{cut}:{end}"


def require_held_out(folder: str, num: int, units: int) -> None:
    """Looks whether some labelled pairs are enough to judge on; warns where they are few.

    Args:
        folder: of their run, for messages.
        num: of pairs.
        units: how many of them are independent of each other.

    Raises:
        ConfigError: fewer than two, of which no gain can be shown.
    """
    if not num:
        raise ConfigError(f"validation: no picture of {folder} has a mask; give another run")
    if units < 2:
        raise ConfigError(
            f"validation: {folder} has {num} labelled pair(s) of one picture, and no gain can be shown on one: give a "
            f"run of {LEAST_HELD_OUT} at least"
        )
    if num < LEAST_HELD_OUT:
        log.warning(
            "validation: %s has %d labelled pairs, fewer than %d: hardly any gain will be shown on them", folder, num,
            LEAST_HELD_OUT,
        )  # fmt: skip


def require_rows(folders: Sequence[str], slices: Sequence[str] = ()) -> None:
    """Looks for shards, and for as many pairs as slices ask for, in the folders that are at hand: a mistake should be
    told before anything starts. Those on stores are left to those who read them.

    Raises:
        ShardError: as `groups_of`.
    """
    for number, folder in enumerate(folders):
        if is_local(folder):
            groups_of([folder], slices[number : number + 1])


def groups_of(
    folders: Sequence[str],
    slices: Sequence[str] = (),
    *,
    balanced: bool = False,
    shared: bool = False,
    labelled: bool = False,
    prompted: bool = False,
) -> list[Group]:
    """The rows that are taken, in order of files.

    Args:
        folders: (F,) runs.
        slices: (F,) which pairs of each, in the order of their ids, as `bounds` reads them; none takes all. Ids are
            digests, so that the first pairs are a random sample, and a larger one holds it.
        balanced: rows with rare classes come more often: (f / f_c) ** 0.5 times for the rarest class c of a row, f_c
            the share of rows that hold c, f that of the most frequent class besides id 0. That is repeat factor
            sampling (LVIS, CVPR 2019, section 4.1) with the most frequent class as the threshold.
        shared: the folders have shares, so that each is balanced by itself.
        labelled: leaves out pictures without masks.
        prompted: leaves out rows without prompts.

    Raises:
        ShardError: a folder without shards or rows, with fewer pairs than its slice asks for, or a broken shard.
        ConfigError: balanced rows of a table that holds no classes.
        DataError: balanced rows of a run without a label space.
    """
    parts: list[tuple[list[str], list[list[int]], np.ndarray]] = []
    for number, folder in enumerate(folders):
        view = view_of(folder)
        paths = some_shards(view.folder)
        scanned = map_shards(partial(_scan, labelled=labelled, prompted=prompted), paths)
        counts = [rows for rows, _ in scanned]
        times = np.ones(sum(map(sum, counts)), np.int64)
        if view.kept is not None or (slices and slices[number] not in ("", ":")):
            times *= _in_slice(paths, (slices[number] if slices else "") or ":", view)
        if labelled or prompted:
            times *= np.concatenate([usable for _, usable in scanned])
            if not times.any():
                lacks, cure = ("mask", "label") if labelled else ("prompt", "caption")
                raise ShardError(
                    f"{folder}: none of its pictures has a {lacks} to learn from; {cure} them first (jobs.{cure}), or "
                    "give other runs"
                )
        parts.append((paths, counts, times))
    if balanced:
        # Folders with shares are sets of their own; the others are one.
        sets = [[number] for number in range(len(parts))] if shared else [list(range(len(parts)))]
        for numbers in sets:
            repeats = _repeats([folders[one] for one in numbers], [parts[one] for one in numbers])
            for one, times in zip(numbers, repeats, strict=True):
                parts[one] = (*parts[one][:2], times)
    found = []
    for number, (paths, counts, times) in enumerate(parts):
        ends = np.cumsum([rows for each in counts for rows in each])
        places = [(path, group) for path, each in zip(paths, counts, strict=True) for group in range(len(each))]
        for (path, group), part in zip(places, np.split(times, ends[:-1]), strict=True):
            if part.any():
                found.append(Group(path, group, np.repeat(np.arange(len(part)), part), number))
    if not found:
        raise ShardError(f"{', '.join(folders)}: no rows; give the folder of a run that has made some")
    return found


class Order:
    """Which row stands at each position of a training; see the module.

    Args:
        groups: of F folders.
        num_lanes: B.
        seed: of the order.
        shares: (F,) how many of a batch's rows come from each folder, as parts of their sum; none takes all as one set.
    """

    def __init__(self, groups: Sequence[Group], num_lanes: int, seed: int, shares: Sequence[float] = ()) -> None:
        self.rows = [group.rows for group in groups]
        parts = [[n for n, one in enumerate(groups) if not shares or one.folder == f] for f in range(len(shares) or 1)]
        self.numbers = [np.array(part) for part in parts]
        self.shares = np.array(shares or (1.0,), np.float64)
        lanes = np.maximum(1, np.round(num_lanes * self.shares / self.shares.sum())).astype(int)
        self.lines = [
            Line(np.array([len(self.rows[number]) for number in part]), int(num), seed)
            for part, num in zip(parts, lanes, strict=True)
        ]

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (b,), counted from the start of the training -> number of the group (b,) and row in its row group
        (b,), int64."""
        if len(self.lines) == 1:
            turn, repeat = np.zeros(len(positions), np.int64), positions
        else:
            first = int(positions.min())
            turn, repeat = (each[positions - first] for each in schedule(self.shares, int(positions.max()) + 1, first))
        numbers, rows = np.empty((2, len(positions)), np.int64)
        for which in np.unique(turn).tolist():
            these = np.flatnonzero(turn == which)
            group, rows[these] = self.lines[which].at(repeat[these].astype(np.int64))
            numbers[these] = self.numbers[which][group]
        return numbers, np.array([self.rows[number][row] for number, row in zip(numbers, rows, strict=True)])


class Line:
    """Which row stands at each position of a training; see the module.

    Args:
        rows: (G,) int64, of each row group; at least one row in all.
        num_lanes: B.
        seed: of the order.
    """

    def __init__(self, rows: np.ndarray, num_lanes: int, seed: int) -> None:
        self.rows, self.num_lanes, self.seed = rows, num_lanes, seed
        self.num_rows = int(rows.sum())
        self._groups = lru_cache(2)(self._groups_of)
        self._rows = lru_cache(4 * num_lanes)(self._rows_of)

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (b,), counted from the start of the training -> row group (b,) and row in it (b,), int64."""
        chosen, inside = np.empty((2, len(positions)), np.int64)
        epochs, rest = np.divmod(positions, self.num_rows)
        turn, lane = np.divmod(rest, self.num_lanes)
        # The first lanes are longer by one row where rows do not divide evenly.
        length, longer = divmod(self.num_rows, self.num_lanes)
        place = lane * length + np.minimum(lane, longer) + turn
        for epoch in np.unique(epochs).tolist():
            these = np.flatnonzero(epochs == epoch)
            order, ends = self._groups(epoch)
            visit = np.searchsorted(ends, place[these], side="right")
            chosen[these] = order[visit]
            inside[these] = place[these] - ends[visit] + self.rows[order[visit]]
        for index, (epoch, group) in enumerate(zip(epochs.tolist(), chosen.tolist(), strict=True)):
            inside[index] = self._rows(epoch, group)[inside[index]]
        return chosen, inside

    def _groups_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The row groups in their order of an epoch, and where each ends in the line."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        return order, np.cumsum(self.rows[order])

    def _rows_of(self, epoch: int, group: int) -> np.ndarray:
        """The rows of a group in their order of an epoch."""
        return np.random.default_rng([self.seed, epoch, group]).permutation(self.rows[group])


def _scan(path: str, *, labelled: bool, prompted: bool) -> tuple[list[int], np.ndarray]:
    """Rows of each row group of a shard; and (N,) bool, which of them have what is asked for of masks and prompts."""
    with open_shard(path) as file:
        rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        usable = np.ones(sum(rows), bool)
        for read, asked in ((with_masks, labelled), (with_prompts, prompted)):
            usable &= read(file) if asked else True
        return rows, usable


def _in_slice(paths: list[str], text: str, view: View) -> np.ndarray:
    """(N,) whether a row is of a pair in a slice of what a view keeps."""
    ids = pa.concat_tables(map_shards(lambda path: read_columns(path, ["pair_id"]), paths))["pair_id"]
    kept = view.within(ids).to_numpy()
    place = np.full(len(ids), -1)
    place[kept] = (
        pc.rank(ids.filter(pa.array(kept)).combine_chunks(), tiebreaker="dense").to_numpy().astype(np.int64) - 1
    )
    start, stop = _bounds_within(int(place.max()) + 1 if len(place) else 0, text, view.folder)
    return (place >= start) & (place < stop)


def _repeats(folders: list[str], parts: list[tuple[list[str], list[list[int]], np.ndarray]]) -> list[np.ndarray]:
    """(N,) int64 of each folder of a set, how often each row comes; rows that are not taken do not count."""
    tables, ends = [], []
    for folder, (paths, _, _) in zip(folders, parts, strict=True):
        found = map_shards(lambda path: read_columns(path, ["class_ids"]), paths)
        if any("class_ids" not in table.column_names for table in found):
            raise ConfigError(
                f"{folder}: its rows name no classes to balance; give runs of pairs, or leave balanced out"
            )
        tables += found
        ends.append(sum(table.num_rows for table in tables))
    unknown = load_labels(folders[0]).ignore_index
    taken = np.concatenate([times for _, _, times in parts]) > 0
    ids = pa.concat_tables(tables)["class_ids"].combine_chunks()
    row, one = pc.list_parent_indices(ids).to_numpy(), pc.list_flatten(ids).to_numpy()
    counted = taken[row] & (one > 0) & (one != unknown)
    frequency = np.bincount(one[counted]).astype(np.float64)
    factors = np.ones(len(taken))
    np.maximum.at(factors, row[counted], np.sqrt(frequency.max(initial=0) / frequency[one[counted]]))
    # Rounded up or down in turn, so that as many rows come as the factors sum to.
    times = np.diff(np.floor(np.cumsum(np.where(taken, factors, 0)) + 0.5), prepend=0).astype(np.int64)
    return np.split(times, ends[:-1])
