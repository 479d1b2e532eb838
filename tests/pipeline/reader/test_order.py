"""The order of an epoch; what follows from it for rows in files is in test_reader.py."""

from __future__ import annotations

import numpy as np

from pipeline.reader.order import Positions, piece_of_worker


def test_a_small_set_is_shuffled_evenly():
    positions = Positions([np.full(5, 20)])
    where = np.zeros((100, 100))
    for epoch in range(400):
        order = positions.order(0, 100, (0, epoch), 8)
        where[np.arange(100), 20 * order.visit + order.row] += 1
    blocks = where.reshape(5, 20, 5, 20).sum((1, 3)) / 400  # rows of the group drawn first, second, ... in each fifth
    np.testing.assert_allclose(blocks, 4, atol=0.5)


def test_a_million_rows_are_ordered_without_remembering_them():
    groups = np.full(10_000, 100)
    positions = Positions([groups])
    assert sum(value.nbytes for value in vars(positions).values() if isinstance(value, np.ndarray)) < 1000
    order = positions.order(500_000, 501_000, (0, 0), 8)
    assert len(order.groups) in (10, 11) and len(order.row) == 1000


def test_workers_cut_a_share_into_whole_batches():
    pieces = [piece_of_worker(23, 4, 0, number, 3) for number in range(3)]
    assert pieces == [(0, 8, 0), (8, 16, 0), (16, 23, 0)]
    assert [piece_of_worker(23, 4, 4, number, 3) for number in range(3)] == [(8, 16, 0), (16, 23, 0), (0, 8, 4)]
