"""PairDataset: the pairs of runs for a training loop in plain torch, by index or as a stream. No Ray.

Parquet is read by row groups of at most 100 rows; `pipeline.reader.order` says which rows of which group come when.
Pictures without masks are passed over.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import InitVar, dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as distributed
import torch.nn.functional as functional
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from pipeline.base.errors import ConfigError, ShardError
from pipeline.base.places import absolute
from pipeline.pictures.masks import ignore_uncertain
from pipeline.reader.order import Positions, piece_of_worker
from pipeline.tables.label_space import common_labels
from pipeline.tables.pairs import unpack_confidence, unpack_pair
from pipeline.tables.rows import has_classes, with_masks
from pipeline.tables.selection import View, view_of
from pipeline.tables.shards import map_shards, open_shard, some_shards

Example = dict[str, Any]
"""`image` (3, H, W) uint8 and `mask` (H, W) int64, tensors; `ignore_index`, a number; `prompt` (may be empty),
`pair_id` and `origin`, text; and the further columns that were asked for."""

Folder = str | os.PathLike[str]

READ_AHEAD = 2  # row groups that a stream fetches while it decodes others
NEEDED = ("pair_id", "image", "mask", "origin")


class PairDataset(Dataset[Any]):
    """The pairs of one or several runs, local or on a store; may be pickled, and used in forked or spawned workers.

    Without `shares` the sets follow one another. With them an epoch lasts until the set that is largest for its share
    was seen once; the others repeat, evenly in between: `shares=(1, 1)` makes real : synthetic 1 : 1.

    Args:
        sets: each the folder of a run or of a selection (a path or an fsspec URL), or several that count as one set.
        shares: of each set in an epoch, above 0, in any unit; none takes the sets as they are.
        ignore_below: pixels of synthetic pairs of which the model was less sure, from 0 to 1, get the ignore index. For
            pairs that were generated with `keep_confidence`.
        transform: called with each Example; what it returns is what the data set gives.
        columns: further columns for the examples, as Python values (pictures encoded); None where a row has none.
        cache_mb: megabytes of encoded row groups that access by index keeps in memory, in each process.

    Attributes:
        labels: the label space of all masks. Where its id 0 is "other", the masks have the ignore index in its place.

    Raises:
        ConfigError: no sets, shares that do not fit them, or a column that no shard has.
        DataError: label spaces are absent or differ.
        ShardError: a folder without pairs, or a broken shard.
    """

    def __init__(
        self,
        *sets: Folder | Sequence[Folder],
        shares: Sequence[float] = (),
        ignore_below: float = 0.0,
        transform: Callable[[Example], Any] | None = None,
        columns: Sequence[str] = (),
        cache_mb: int = 256,
    ) -> None:
        if shares and (len(shares) != len(sets) or not all(0 < share < np.inf for share in shares)):
            raise ConfigError(f"shares: one number above 0 for each of the {len(sets)} sets, but got {tuple(shares)}")
        if not 0 <= ignore_below <= 1:
            raise ConfigError(f"ignore_below: a probability from 0 to 1, but got {ignore_below}")
        folders = [[absolute(os.fspath(folder)) for folder in _as_list(one)] for one in sets]
        if not shares:
            folders = [[folder for one in folders for folder in one]]
        if not all(folders):
            raise ConfigError("PairDataset: each set is the folder of a run, or several; one of them is empty")
        self.transform, self.ignore_below, self.columns = transform, ignore_below, tuple(columns)
        found = [[(path, view) for view in map(view_of, one) for path in some_shards(view.folder)] for one in folders]
        paths = [[path for path, _ in one] for one in found]
        self._views = [view for one in found for _, view in one]
        self.labels = common_labels([folder for one in folders for folder in one])
        self.paths = [path for one in paths for path in one]
        scanned = map_shards(lambda one: _scan(*one), list(zip(self.paths, self._views, strict=True)))
        if unknown := set(self.columns).difference(*(one.columns for one in scanned)):
            raise ConfigError(f"columns: no shard has {', '.join(sorted(unknown))}")
        rows = iter([one.rows for one in scanned])
        self.positions = Positions([np.concatenate(list(islice(rows, len(one)))) for one in paths], shares)
        self._file_of = np.repeat(np.arange(len(scanned)), [len(one.rows) for one in scanned])
        self._group_of = np.concatenate([one.groups for one in scanned])
        self._is_partial = np.array([one.is_partial for one in scanned])
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._cache_bytes = cache_mb * 10**6

    def __len__(self) -> int:
        """Examples of an epoch."""
        return len(self.positions)

    def __getitem__(self, index: int) -> Any:
        """The example at a position; reads its whole row group where that is not in memory.

        Raises:
            ShardError: a shard has gone, or is broken.
            DataError: a picture or mask that cannot be used; names the file and the pair.
        """
        position = range(len(self))[index]
        (group,), _, (row,) = (one.tolist() for one in self.positions.order(position, position + 1))
        if group in self._cache:
            self._cache.move_to_end(group)
        else:
            self._cache[group] = self.read_group(group)
            while len(self._cache) > 1 and sum(table.nbytes for table in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
        return self.decode(group, self._cache[group], row)

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict()}

    def stream(
        self,
        *,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        batch_size: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        window_groups: int = 8,
    ) -> PairStream:
        """A PairStream of these pairs; rank and world size are those of `torch.distributed` unless given."""
        rank, world_size = _rank_and_size(rank, world_size)
        return PairStream(self, shuffle, seed, epoch, start, batch_size, rank, world_size, window_groups)

    def read_group(self, group: int) -> pa.Table:
        """The encoded rows of one of the `G` row groups. Opens its file anew: nothing open crosses a fork."""
        confidence = ("confidence",) if self.ignore_below else ()
        is_partial = self._is_partial[self._file_of[group]]
        classes = ("class_ids",) if is_partial else ()
        wanted = dict.fromkeys((*NEEDED, "prompt", *confidence, *classes, *self.columns))
        with open_shard(self.paths[self._file_of[group]]) as file:
            present = [name for name in wanted if name in file.schema_arrow.names]
            rows = file.read_row_group(int(self._group_of[group]), present, use_threads=False)
        view = self._views[self._file_of[group]]
        return view.filter(rows.filter(has_classes(rows)) if is_partial else rows)

    def decode(self, group: int, table: pa.Table, row: int) -> Any:
        """The example in `row` of what `read_group` gave, transformed."""
        cells = table.slice(row, 1).to_pylist()[0]
        where = f"{self.paths[self._file_of[group]]}, pair {cells['pair_id']}"
        image, mask, _, _ = unpack_pair(cells, self.labels, where)
        if self.ignore_below and cells["origin"] == "synthetic":
            confidence = unpack_confidence(cells, image, where)
            mask = ignore_uncertain(mask, confidence, self.ignore_below, self.labels.ignore_index)
        example = {
            **{name: cells.get(name) for name in self.columns},
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "mask": torch.from_numpy(self.labels.as_learned(mask).astype(np.int64)),
            "ignore_index": self.labels.ignore_index,
            "prompt": cells.get("prompt") or "",
            "pair_id": cells["pair_id"],
            "origin": cells["origin"],
        }
        return self.transform(example) if self.transform else example


@dataclass(eq=False)
class PairStream(IterableDataset[Any]):
    """One rank's share of an epoch, read row group by row group; made by `PairDataset.stream`.

    Every rank has len(dataset) // world_size examples, which the workers of its DataLoader share; the rest, fewer than
    there are ranks, is left out. Each row group is read once, or once each time that its set repeats; those at a border
    are read on both sides of it. The same arguments and number of workers give the same examples again.

    Attributes:
        dataset: what to read.
        shuffle: draws an order of the row groups, and moves each row by up to `window_groups` / 2 groups; without it
            rows come in order of files.
        seed, epoch: of that order, 0 or more.
        start: examples of the epoch that this rank has had already, a multiple of `batch_size`.
        batch_size: the DataLoader's. Its workers then have whole batches but for the very last, and `start` goes on
            with just the batch that would have come next.
        rank, world_size: of this process.
        window_groups: row groups that are mixed; about as many of each set are held, encoded, by each worker.

    Raises:
        ConfigError: a number out of range, or fewer examples than ranks.
    """

    dataset: PairDataset
    shuffle: bool
    seed: int
    epoch: InitVar[int]
    start: InitVar[int]
    batch_size: int
    rank: int
    world_size: int
    window_groups: int

    def __post_init__(self, epoch: int, start: int) -> None:
        if min(self.seed, self.batch_size - 1, self.window_groups - 1) < 0:
            raise ConfigError(
                f"stream: seed must be 0 or more, batch_size and window_groups 1 or more, but got {self.seed}, "
                f"{self.batch_size} and {self.window_groups}"
            )
        if not 0 <= self.rank < self.world_size <= len(self.dataset):
            raise ConfigError(
                f"stream: {len(self.dataset)} examples cannot be shared so that rank {self.rank} of {self.world_size} "
                "has some; ranks count from 0"
            )
        self.share = len(self.dataset) // self.world_size
        # In shared memory, so that workers that outlive an epoch (persistent_workers) are told of the next one.
        self._at = torch.zeros(2, dtype=torch.int64).share_memory_()
        self.set_epoch(epoch, start)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Chooses what the next `iter` gives; without it each gives the same again."""
        if epoch < 0 or not 0 <= start <= self.share or start % self.batch_size:
            raise ConfigError(
                f"stream: epoch must be 0 or more, and start a multiple of batch_size ({self.batch_size}) up to "
                f"{self.share}, but got {epoch} and {start}"
            )
        self._at.copy_(torch.tensor([epoch, start]))

    def __len__(self) -> int:
        """Examples of this rank in the epoch, behind `start`."""
        return self.share - int(self._at[1])

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch, start = self._at.tolist()
        begin, end, done = piece_of_worker(self.share, self.batch_size, start, number, num_workers)
        first = self.rank * self.share
        seed = (self.seed, epoch) if self.shuffle else None
        groups, visit, row = self.dataset.positions.order(first + begin, first + end, seed, self.window_groups)
        return self._examples(groups, visit[done:], row[done:])

    def _examples(self, groups: np.ndarray, visit: np.ndarray, row: np.ndarray) -> Iterator[Any]:
        visits, first, uses = np.unique(visit, return_index=True, return_counts=True)
        upcoming = iter(visits[np.argsort(first)].tolist())
        left = dict(zip(visits.tolist(), uses.tolist(), strict=True))
        held: dict[int, pa.Table | Future[pa.Table]] = {}
        pool = ThreadPoolExecutor(1)

        def fetch(num: int) -> None:
            for one in islice(upcoming, num):
                held[one] = pool.submit(self.dataset.read_group, int(groups[one]))

        try:
            fetch(READ_AHEAD)
            for one, at in zip(visit.tolist(), row.tolist(), strict=True):
                table = held[one]
                if isinstance(table, Future):
                    fetch(1)
                    table = held[one] = table.result()
                left[one] -= 1
                if not left[one]:
                    del held[one]
                yield self.dataset.decode(int(groups[one]), table, at)
        finally:
            pool.shutdown(cancel_futures=True)


def random_crop(example: Example, *, size_px: int, generator: torch.Generator | None = None) -> Example:
    """Transform: a random square of image and mask, so that pairs of any size make a batch.

    Smaller ones are filled up at the right and the bottom, with black and with the example's `ignore_index`. Without a
    generator it draws from torch's own, which a DataLoader seeds for each of its workers.
    """
    image, mask = example["image"], example["mask"]
    top, left = (int(torch.randint(max(have - size_px, 0) + 1, (), generator=generator)) for have in mask.shape)
    image, mask = (one[..., top : top + size_px, left : left + size_px] for one in (image, mask))
    fill = (0, size_px - mask.shape[1], 0, size_px - mask.shape[0])
    mask = functional.pad(mask, fill, value=example["ignore_index"])
    return {**example, "image": functional.pad(image, fill), "mask": mask}


def _rank_and_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if rank is not None and world_size is not None:
        return rank, world_size
    if rank is not None or world_size is not None:
        raise ConfigError(f"stream: give rank and world_size, or neither; got {rank} and {world_size}")
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _as_list(folders: Folder | Sequence[Folder]) -> Sequence[Folder]:
    return [folders] if isinstance(folders, str | os.PathLike) else folders


class _Scanned(NamedTuple):
    """The row groups of a shard that hold masks, `groups` (G,) and how many, `rows` (G,); its columns; and whether some
    of its pictures have no mask."""

    groups: np.ndarray
    rows: np.ndarray
    columns: list[str]
    is_partial: bool


def _scan(path: str, view: View) -> _Scanned:
    with open_shard(path) as file:
        names = file.schema_arrow.names
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        usable = with_masks(file)
        if view.kept is not None:
            ids = file.read(columns=["pair_id"], use_threads=False)["pair_id"]
            usable = usable & view.within(ids).to_numpy()
    if absent := [name for name in NEEDED if name not in names]:
        raise ShardError(f"{path}: holds no pairs, it has no {', '.join(absent)}; give a run of ingest or generate")
    rows = np.array([one.sum() for one in np.split(usable, np.cumsum(sizes)[:-1])], np.int64)
    groups = np.flatnonzero(rows)
    return _Scanned(groups, rows[groups], names, not usable.all())
