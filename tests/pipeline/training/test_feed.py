"""The batches of a training worker: every row once an epoch, in an order of its own, and the same when it goes on."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from pipeline.errors import ShardError
from pipeline.training.feed import Feed
from tests.tiny import save_pairs


def seeds(batch):
    return {"seed": np.asarray(batch["seed"], np.int64)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_pairs(tmp_path_factory.mktemp("pairs"), 24, size_px=32, num_shards=4))


def read(folder, *, steps, start=0, **settings):
    batches = Feed((folder,), ("seed",), seeds, **settings).batches(4, start)
    return [batch["seed"].tolist() for batch in islice(batches, steps)]


def test_cached_rows_come_once_an_epoch_over_all_workers_and_in_another_order_in_the_next(folder):
    ranks = [read(folder, steps=6, rank=rank, world_size=2) for rank in (0, 1)]

    first = [row for rank in ranks for batch in rank[:3] for row in batch]
    second = [row for rank in ranks for batch in rank[3:] for row in batch]
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def test_cached_batches_are_the_same_from_any_step_on(folder):
    assert read(folder, steps=4, start=5) == read(folder, steps=9)[5:]


def test_the_head_is_of_the_first_rows_whatever_the_worker(folder):
    heads = [Feed((folder,), ("seed",), seeds, rank=rank, world_size=2).head(7)["seed"].tolist() for rank in (0, 1)]

    assert heads[0] == heads[1] and len(heads[0]) == 7


def test_fewer_shards_than_workers_are_told(folder):
    with pytest.raises(ShardError, match="4 shards in .* cannot be shared among 5 training workers"):
        read(folder, steps=1, rank=0, world_size=5)


@pytest.mark.ray
def test_streamed_rows_come_once_an_epoch_over_all_workers_and_go_on_where_they_stopped(folder, ray_session):
    ranks = [read(folder, steps=3, rank=rank, world_size=2, cache=False) for rank in (0, 1)]

    assert Counter(row for rank in ranks for batch in rank for row in batch) == Counter(range(24))
    assert read(folder, steps=1, start=2, rank=0, world_size=2, cache=False) == ranks[0][2:]
