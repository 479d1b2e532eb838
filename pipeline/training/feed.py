"""The batches of one training worker, read from shards: once, or in every epoch through Ray Data.

A worker reads its own share of the files and draws its own order from (seed, rank, epoch), so that a run that was
stopped at any step goes on with exactly the batches that it would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray.data
import torch

from pipeline.errors import ShardError
from pipeline.schema import Batch, object_column
from pipeline.shards import open_shard, some_shards
from pipeline.training.task import Tensors

SHUFFLE_ROWS = 8192


@dataclass(frozen=True)
class Feed:
    """Where a worker's examples come from.

    Attributes:
        folders: runs to read, as one set.
        columns: columns to read.
        decode: stage from encoded columns to arrays.
        rank, world_size: this worker among all.
        seed: of the order.
        cache: decode once and keep the arrays in this worker's memory (a few thousand small pictures), rather than
            read and decode again in every epoch (anything large). Cached epochs are shuffled over all rows, streamed
            ones over file order and a window of 8,192 rows.
    """

    folders: tuple[str, ...]
    columns: tuple[str, ...]
    decode: Callable[[Batch], Batch]
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    cache: bool = True

    def batches(self, batch_size: int, start_step: int) -> Iterator[Tensors]:
        """Endless batches of this worker's `batch_size` examples, from `start_step` on."""
        numpy_batches = self._cached(batch_size, start_step) if self.cache else self._streamed(batch_size, start_step)
        for batch in numpy_batches:
            yield to_tensors(batch)

    def head(self, num_rows: int) -> Tensors:
        """The first rows in order of files, at most `num_rows` of them, the same for every worker."""
        files = [file for folder in self.folders for file in some_shards(folder)]
        taken: list[Batch] = []
        count = 0
        for batch in self._decoded(files):
            taken.append(batch)
            count += len(next(iter(batch.values())))
            if count >= num_rows:
                break
        return to_tensors({name: np.concatenate([batch[name] for batch in taken])[:num_rows] for name in taken[0]})

    def files(self) -> list[str]:
        """Shards of this worker.

        Raises:
            ShardError: none at all, or fewer than workers.
        """
        files = [file for folder in self.folders for file in some_shards(folder)]
        if len(files) < self.world_size:
            raise ShardError(
                f"{len(files)} shards in {', '.join(self.folders)} cannot be shared among {self.world_size} training "
                "workers; use fewer workers, or write the set again with fewer rows per shard"
            )
        return files[self.rank :: self.world_size]

    def _decoded(self, files: Sequence[str]) -> Iterator[Batch]:
        """All rows of some files, in order. Read and decoded in this process: it is done once, and would be over before
        a task of Ray Data had started."""
        for path in files:
            with open_shard(path) as file:
                for rows in file.iter_batches(batch_size=256, columns=list(self.columns), use_threads=False):
                    names = rows.schema.names
                    yield self.decode({name: object_column(rows[name].to_pylist()) for name in names})

    def _cached(self, batch_size: int, start_step: int) -> Iterator[Batch]:
        parts = list(self._decoded(self.files()))
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        num_rows = len(next(iter(rows.values())))
        orders: dict[int, np.ndarray] = {}

        def order(epoch: int) -> np.ndarray:
            if epoch not in orders:
                orders.clear()
                orders[epoch] = np.random.default_rng([self.seed, self.rank, epoch]).permutation(num_rows)
            return orders[epoch]

        position = start_step * batch_size
        while True:
            chosen: list[np.ndarray] = []
            missing = batch_size
            while missing:  # a batch may reach into the next epochs: every row is seen once an epoch, none is dropped
                epoch, offset = divmod(position, num_rows)
                taken = order(epoch)[offset : offset + missing]
                chosen.append(taken)
                position += len(taken)
                missing -= len(taken)
            index = np.concatenate(chosen)
            yield {name: values[index] for name, values in rows.items()}

    def _streamed(self, batch_size: int, start_step: int) -> Iterator[Batch]:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        files = self.files()
        steps_per_epoch = sum(map(_num_rows, files)) // batch_size
        if not steps_per_epoch:
            raise ShardError(f"{', '.join(self.folders)}: a worker's share is smaller than its batch of {batch_size}")
        epoch, skipped = divmod(start_step, steps_per_epoch)
        while True:
            order = np.random.default_rng([self.seed, self.rank, epoch])
            encoded = ray.data.read_parquet([files[i] for i in order.permutation(len(files))], columns=[*self.columns])
            batches = encoded.map_batches(self.decode, batch_size=256, num_cpus=0.5).iter_batches(
                batch_size=batch_size,
                drop_last=True,
                local_shuffle_buffer_size=SHUFFLE_ROWS,
                local_shuffle_seed=int(order.integers(2**31)),
            )
            for step, batch in enumerate(batches):
                if step >= skipped:
                    yield batch
            epoch, skipped = epoch + 1, 0


def to_tensors(batch: Batch) -> Tensors:
    """Arrays -> tensors of their own memory: what Ray gives is read-only."""
    return {name: torch.from_numpy(np.array(values)) for name, values in batch.items()}


def _num_rows(file: str) -> int:
    with open_shard(file) as shard:
        return shard.metadata.num_rows
