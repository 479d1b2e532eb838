"""The batches of one training worker, read from shards in an order that all workers agree on.

An epoch is a line: the row groups of all shards in a drawn order, and in each of them the rows in a drawn order. The
line is cut into as many lanes as a batch has rows; each batch takes the next row of every lane. So the rows of a batch
come from as many row groups, every row is seen once an epoch whatever the number of workers, and a worker reads little
but the row groups of its own lanes. Any step can be gone on with at once: the order is arithmetic on (seed, epoch).

Legend: N rows of the set, G row groups, B rows of a batch and lanes, b of them this worker's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
import pyarrow as pa
import torch

from pipeline.base.errors import ShardError
from pipeline.pictures.squares import require_one_size
from pipeline.tables.conform import object_column
from pipeline.tables.schema import Batch
from pipeline.tables.shards import map_shards, open_shard, some_shards
from pipeline.training.task import Tensors

GROUPS_AHEAD, BATCHES_AHEAD = 8, 2
"""Batches whose row groups are read ahead, and those that are decoded ahead at least: one for every thread."""


@dataclass(frozen=True)
class Feed:
    """Where a worker's examples come from.

    Attributes:
        folders: runs to read, as one set; paths or URLs.
        columns: columns to read.
        decode: stage from encoded columns to arrays.
        seed: of the order.
        cache: decode each row group once and keep all of them in memory, for small sets. Otherwise only the row groups
            in use are held, encoded, about one for each row of a batch, and rows are decoded when their turn comes. The
            order is the same.
        threads: that read ahead, and as many that decode.
    """

    folders: tuple[str, ...]
    columns: tuple[str, ...]
    decode: Callable[[Batch], Batch]
    seed: int = 0
    cache: bool = True
    threads: int = 1

    def batches(
        self, batch_size: int, start_step: int = 0, places: range | None = None, *, pin: bool = False
    ) -> Generator[Tensors, None, None]:
        """Endless batches, from `start_step` on.

        Args:
            batch_size: B.
            start_step: batches that were had before.
            places: (b,) the places in each batch that this worker has; all by default.
            pin: give memory that a GPU can fetch from by itself.

        Raises:
            ShardError: a folder without shards or rows, or a broken shard.
        """
        groups = self.groups()
        line = Line(np.array([rows for _, _, rows in groups]), batch_size, self.seed)
        mine = np.array(range(batch_size) if places is None else places)
        held: dict[int, Future[Batch | pa.Table]] = {}
        upcoming: deque[tuple[np.ndarray, np.ndarray]] = deque()
        made: deque[Future[Tensors]] = deque()
        ahead = min(max(BATCHES_AHEAD, self.threads), GROUPS_AHEAD)
        with ThreadPoolExecutor(self.threads) as readers, ThreadPoolExecutor(self.threads) as decoders:
            try:
                for step in count(start_step):
                    while len(upcoming) + len(made) < GROUPS_AHEAD:
                        numbers, rows = line.at((step + len(upcoming) + len(made)) * batch_size + mine)
                        for number in set(numbers.tolist()) - held.keys():
                            held[number] = readers.submit(self._read, *groups[number][:2])
                        upcoming.append((numbers, rows))
                    while len(made) < ahead:
                        numbers, rows = upcoming.popleft()
                        parts = [(held[one], rows, np.flatnonzero(numbers == one)) for one in np.unique(numbers)]
                        made.append(decoders.submit(self._batch, parts, pin))
                    if not self.cache:
                        needed = {number for numbers, _ in upcoming for number in numbers.tolist()}
                        for number in held.keys() - needed:  # batches that are being decoded have them still
                            del held[number]
                    yield made.popleft().result()
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                decoders.shutdown(wait=False, cancel_futures=True)

    def head(self, num_rows: int) -> Tensors:
        """The first rows in order of files, at most `num_rows` of them."""
        taken: list[Batch] = []
        for path, group, rows in self.groups():
            if num_rows <= 0:
                break
            taken.append(self.decode(_columns(self._table(path, group).slice(0, num_rows))))
            num_rows -= rows
        return to_tensors(_joined(taken))

    def groups(self) -> list[tuple[str, int, int]]:
        """Shard, number in it and rows of each row group.

        Raises:
            ShardError: a folder without shards or rows, or a broken shard.
        """
        paths = [path for folder in self.folders for path in some_shards(folder)]
        found = [
            (path, number, rows)
            for path, counts in zip(paths, map_shards(_rows_of_groups, paths), strict=True)
            for number, rows in enumerate(counts)
            if rows
        ]
        if not found:
            raise ShardError(f"{', '.join(self.folders)}: no rows; give the folder of a run that has made some")
        return found

    def _read(self, path: str, group: int) -> Batch | pa.Table:
        table = self._table(path, group)
        return self.decode(_columns(table)) if self.cache else table

    def _table(self, path: str, group: int) -> pa.Table:
        with open_shard(path) as file:
            return file.read_row_group(group, list(self.columns), use_threads=False)

    def _batch(self, parts: list[tuple[Future[Batch | pa.Table], np.ndarray, np.ndarray]], pin: bool) -> Tensors:
        """A batch from row groups: for each the rows of the batch, and the places that it fills."""
        order = np.argsort(np.concatenate([places for _, _, places in parts]))
        taken: list[Batch] = []
        for future, rows, places in parts:
            group = future.result()
            if isinstance(group, pa.Table):
                taken.append(_columns(group.take(rows[places])))
            else:
                taken.append({name: values[rows[places]] for name, values in group.items()})
        batch = {name: values[order] for name, values in _joined(taken).items()}
        return to_tensors(batch if self.cache else self.decode(batch), pin)


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


def to_tensors(batch: Batch, pin: bool = False) -> Tensors:
    """Arrays -> tensors of their own memory: Arrow's is read-only. 16-bit masks become int32: torch does little with
    uint16."""
    owned = {
        name: values.astype(np.int32) if values.dtype == np.uint16 else np.array(values)
        for name, values in batch.items()
    }
    tensors = {name: torch.from_numpy(values) for name, values in owned.items()}
    return {name: tensor.pin_memory() for name, tensor in tensors.items()} if pin else tensors


def _columns(table: pa.Table) -> Batch:
    return {name: object_column(table[name].to_pylist()) for name in table.column_names}


def _joined(parts: list[Batch]) -> Batch:
    for name in parts[0]:
        if parts[0][name].ndim > 2:  # pictures
            require_one_size({part[name].shape[1:3] for part in parts})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows_of_groups(path: str) -> list[int]:
    with open_shard(path) as file:
        return [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
