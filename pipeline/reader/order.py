"""Which row of which set comes when in an epoch: arithmetic on numbers of rows, without files.

An epoch is a line of *positions*; ranks, and the workers of a rank's DataLoader, take consecutive pieces of it. A *lap*
is once through all rows of a set: where sets are mixed, the small ones run several laps an epoch. A *visit* is the time
during which a reader holds a row group. What is remembered is a number for each group, not for each row.

`N` positions of an epoch, `n` of a piece, `G` row groups, `V` visits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.base.errors import ShardError
from pipeline.base.turns import schedule


class Order(NamedTuple):
    """What a piece of an epoch reads: `groups` (V,), the row group of each visit; for each example `visit` (n,), which
    of them holds it, and `row` (n,), where in it. All int64."""

    groups: np.ndarray
    visit: np.ndarray
    row: np.ndarray


class Positions:
    """Which row stands at each position of an epoch.

    Args:
        sets: for each set the number of rows in each of its row groups, int64. Groups are counted through all sets.
        shares: as of PairDataset; a position then costs 6 bytes of memory.

    Raises:
        ShardError: a set without rows.
    """

    def __init__(self, sets: Sequence[np.ndarray], shares: Sequence[float] = ()) -> None:
        self.sets = sets
        self.first_group = np.cumsum([0, *map(len, sets)])
        self.sizes = np.array([one.sum() for one in sets])
        if not self.sizes.all():
            raise ShardError("the shards of a set hold no pairs with masks; leave it out, or give a run that has some")
        weights = np.array(shares or [1.0])
        counts = np.rint(weights * (self.sizes / weights).max())
        self.num = int(counts.sum())
        self.set_of, self.turn = np.zeros(0, np.int16), np.zeros(0, np.int32)
        if len(sets) > 1:
            chosen, self.turn = schedule(counts, self.num)
            self.set_of = chosen.astype(np.int16)

    def __len__(self) -> int:
        return self.num

    def order(self, begin: int, end: int, seed: tuple[int, int] | None = None, window_groups: int = 1) -> Order:
        """What stands at the positions from `begin` to before `end`.

        Args:
            begin, end: from 0 to `len`.
            seed: a seed and an epoch, which shuffle; None takes groups and rows in their order.
            window_groups: of the shuffle, see PairStream.
        """
        mixed = len(self.sets) > 1
        visit, row = np.empty((2, end - begin), np.int64)
        groups: list[np.ndarray] = [np.zeros(0, np.int64)]
        num_visits = 0
        for number, rows in enumerate(self.sets):
            places = np.flatnonzero(self.set_of[begin:end] == number) if mixed else np.arange(end - begin)
            turns = self.turn[begin:end][places] if mixed else places + begin
            done = 0
            while done < len(places):  # a set's turns follow one another, so that each lap's are one piece of it
                lap, first = divmod(int(turns[done]), int(self.sizes[number]))
                num = min(len(places) - done, int(self.sizes[number]) - first)
                generator = np.random.default_rng([*seed, number, lap]) if seed else None
                part = order_of_lap(rows, first, first + num, generator, window_groups)
                visit[places[done : done + num]] = part.visit + num_visits
                row[places[done : done + num]] = part.row
                groups.append(part.groups + self.first_group[number])
                num_visits += len(part.groups)
                done += num
        return Order(np.concatenate(groups), visit, row)


def order_of_lap(
    rows: np.ndarray, begin: int, end: int, generator: np.random.Generator | None, window_groups: int
) -> Order:
    """A piece of a lap.

    Args:
        rows: (G,) int64, of its row groups.
        begin, end: of the piece; not empty.
        generator: draws the order of the groups first, so that all pieces that start from its state agree on it.
        window_groups: see PairStream; a piece of no more groups is shuffled evenly.
    """
    groups = generator.permutation(len(rows)) if generator else np.arange(len(rows))
    ends = np.cumsum(rows[groups])
    first, last = np.searchsorted(ends, [begin, end - 1], side="right")
    groups = groups[first : last + 1]
    counts = rows[groups]
    skipped = begin - (ends[first] - counts[0])
    visit = np.repeat(np.arange(len(groups)), counts)[skipped:][: end - begin]
    row = np.concatenate([np.arange(count) for count in counts])[skipped:][: end - begin]
    if generator:
        # Each row moves from the middle of its group by up to half a window, and is mirrored at both ends. A window of
        # twice the length makes that an even draw.
        window = window_groups if window_groups < len(groups) else 2 * len(groups)
        place = np.abs(visit + 0.5 + window * (generator.random(len(visit)) - 0.5))
        moved = np.argsort(len(groups) - np.abs(len(groups) - place), kind="stable")
        visit, row = visit[moved], row[moved]
    return Order(groups, visit, row)


def piece_of_worker(
    num_examples: int, batch_size: int, start: int, number: int, num_workers: int
) -> tuple[int, int, int]:
    """Begin and end of a DataLoader worker's piece of its rank's share, and how much of that was given before.

    A DataLoader takes a batch of each worker in turn, always from worker 0 on. So that it goes on behind `start` with
    the worker whose turn it was, pieces change hands.
    """
    batches, rest = divmod(num_examples, batch_size)
    given = start // batch_size
    piece = (number + given) % num_workers
    each, more = divmod(batches, num_workers)

    def begin(piece: int) -> int:
        return (piece * each + min(piece, more)) * batch_size + (rest if piece > more else 0)

    return begin(piece), begin(piece + 1), (given - piece + num_workers - 1) // num_workers * batch_size
