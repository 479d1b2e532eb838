"""The batches of one training worker, read from shards in an order that all workers agree on.

Legend: F folders, B rows of a batch, b of them this worker's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np
import pyarrow as pa
import torch

from pipeline.base.errors import ShardError
from pipeline.pictures.squares import require_one_size
from pipeline.tables.conform import object_column
from pipeline.tables.schema import Batch
from pipeline.tables.shards import open_shard
from pipeline.training.order import Group, Order, groups_of
from pipeline.training.task import Tensors

NEWER = {"origin": pa.string(), "mask_weight": pa.binary()}
"""Columns that an earlier release did not write; null then."""
GROUPS_AHEAD, BATCHES_AHEAD = 8, 2
"""Batches whose row groups are read ahead, and those that are decoded ahead at least: one for every thread."""


@dataclass(frozen=True)
class Feed:
    """Where a worker's examples come from.

    Attributes:
        folders: (F,) runs to read, as one set unless they have shares; paths or URLs.
        columns: columns to read; with `mask` or `prompt` among them, rows that have none are left out.
        decode: stage from encoded columns to arrays.
        seed: of the order.
        cache: decode each row group once and keep all of them in memory, for small sets. Otherwise only the row groups
            in use are held, encoded, about one for each row of a batch, and rows are decoded when their turn comes. The
            order is the same.
        threads: that read ahead, and as many that decode.
        slices, shares, balanced: which rows are taken, and how often: as `order.groups_of` and `Order`.
    """

    folders: tuple[str, ...]
    columns: tuple[str, ...]
    decode: Callable[[Batch], Batch]
    seed: int = 0
    cache: bool = True
    threads: int = 1
    slices: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    balanced: bool = False

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
            ShardError, ConfigError: as `groups`.
        """
        groups = self.groups()
        order = Order(groups, batch_size, self.seed, self.shares)
        mine = np.array(range(batch_size) if places is None else places)
        held: dict[int, Future[Batch | pa.Table]] = {}
        upcoming: deque[tuple[np.ndarray, np.ndarray]] = deque()
        made: deque[Future[Tensors]] = deque()
        ahead = min(max(BATCHES_AHEAD, self.threads), GROUPS_AHEAD)
        with ThreadPoolExecutor(self.threads) as readers, ThreadPoolExecutor(self.threads) as decoders:
            try:
                for step in count(start_step):
                    while len(upcoming) + len(made) < GROUPS_AHEAD:
                        numbers, rows = order.at((step + len(upcoming) + len(made)) * batch_size + mine)
                        for number in set(numbers.tolist()) - held.keys():
                            held[number] = readers.submit(self._read, groups[number])
                        upcoming.append((numbers, rows))
                    while len(made) < ahead:
                        numbers, rows = upcoming.popleft()
                        parts = [
                            (held[one], self._places(groups[one], rows[numbers == one]), np.flatnonzero(numbers == one))
                            for one in np.unique(numbers)
                        ]
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
        for group in self.groups():
            if num_rows <= 0:
                break
            taken.append(self.decode(_columns(self._table(group).take(group.rows[:num_rows]))))
            num_rows -= len(group.rows)
        return to_tensors(_joined(taken))

    def drawn(self, num_rows: int, batch_size: int) -> Tensors:
        """The first rows that training takes, at least `num_rows`, in whole batches: a fair part of all folders."""
        batches = replace(self, cache=False).batches(batch_size)
        taken = list(islice(batches, -(-num_rows // batch_size)))
        batches.close()
        return {name: torch.cat([part[name] for part in taken]) for name in taken[0]}

    def groups(self) -> list[Group]:
        """What is read.

        Raises:
            ShardError, ConfigError: as `order.groups_of`.
        """
        return groups_of(
            self.folders,
            self.slices,
            balanced=self.balanced,
            shared=bool(self.shares),
            labelled="mask" in self.columns,
            prompted="prompt" in self.columns,
        )

    def _read(self, group: Group) -> Batch | pa.Table:
        table = self._table(group)
        return self.decode(_columns(table.take(np.unique(group.rows)))) if self.cache else table

    def _table(self, group: Group) -> pa.Table:
        with open_shard(group.path) as file:
            table = file.read_row_group(group.number, list(self.columns), use_threads=False)
        for name in self.columns:
            if name not in table.column_names and name not in NEWER:
                raise ShardError(f"{group.path}: no column {name}, which is learned from here; give another run")
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(table.num_rows, NEWER[name]))
        return table

    def _places(self, group: Group, rows: np.ndarray) -> np.ndarray:
        """Where rows of a row group are in what `_read` gives of it."""
        return np.searchsorted(np.unique(group.rows), rows) if self.cache else rows

    def _batch(self, parts: list[tuple[Future[Batch | pa.Table], np.ndarray, np.ndarray]], pin: bool) -> Tensors:
        """A batch from row groups: for each the rows that are taken, and the places in the batch that they fill."""
        order = np.argsort(np.concatenate([places for _, _, places in parts]))
        taken: list[Batch] = []
        for future, rows, _ in parts:
            group = future.result()
            if isinstance(group, pa.Table):
                taken.append(_columns(group.take(rows)))
            else:
                taken.append({name: values[rows] for name, values in group.items()})
        batch = {name: values[order] for name, values in _joined(taken).items()}
        return to_tensors(batch if self.cache else self.decode(batch), pin)


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
