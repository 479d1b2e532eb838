"""The batches of a training worker: every row once an epoch over all workers, and the same when it goes on."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pyarrow as pa
import pytest

from pipeline.base.errors import ShardError
from pipeline.tables.shards import write_table
from pipeline.training.feed import GROUPS_AHEAD, Feed
from pipeline.training.order import Line


def rows(batch):
    return {"row": np.asarray(batch["row"], np.int64)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    for start in (0, 70):  # a shard of 70 rows in a row group, one of 100 and one of 10
        table = pa.table({"pair_id": [str(row) for row in range(start, 180)][: 70 if not start else 110]})
        write_table(table.append_column("row", pa.array(range(start, start + len(table)))), f"{run}/shards")
    return str(run)


def read(folder, *, steps, start=0, batch=8, places=None, **settings):
    batches = Feed((folder,), ("row",), rows, **settings).batches(batch, start, places)
    found = [one["row"].tolist() for one in islice(batches, steps)]
    batches.close()
    return found


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("batch", [8, 7, 300])
def test_every_row_comes_once_an_epoch_in_another_order_in_the_next(folder, batch, cache):
    seen = [row for one in read(folder, steps=-(-360 // batch), batch=batch, cache=cache) for row in one]

    assert sorted(seen[:180]) == sorted(seen[180:360]) == list(range(180))
    assert seen[:180] != seen[180:360]


def test_two_workers_have_together_what_one_has_alone(folder):
    alone = read(folder, steps=30)
    first, second = (read(folder, steps=30, places=places) for places in (range(5), range(5, 8)))

    assert [one + other for one, other in zip(first, second, strict=True)] == alone


def test_any_step_is_gone_on_with_and_caching_changes_nothing(folder):
    whole = read(folder, steps=50)

    assert read(folder, steps=10, start=40) == whole[40:]
    assert read(folder, steps=50, cache=False) == whole


def test_a_batch_is_of_many_row_groups_and_lanes_read_on_in_theirs():
    line = Line(np.full(64, 100), num_lanes=16, seed=0)
    groups = [line.at(np.arange(step * 16, step * 16 + 16))[0] for step in range(50)]

    assert min(len(set(one.tolist())) for one in groups) >= 15
    assert len({group for one in groups for group in one.tolist()}) < 40  # of 64: what is open stays open


def test_only_row_groups_in_use_are_held(folder, monkeypatch):
    opened = []
    table = Feed._table

    def spy(feed, *where):
        opened.append(where)
        return table(feed, *where)

    monkeypatch.setattr(Feed, "_table", spy)
    read(folder, steps=18, batch=10, cache=False)

    assert len(opened) <= 3 + 10 + GROUPS_AHEAD  # each once, at borders of lanes once more, and those ahead


def test_the_head_is_of_the_first_rows(folder):
    assert Feed((folder,), ("row",), rows).head(75)["row"].tolist() == list(range(75))


def test_a_set_without_rows_is_told(tmp_path):
    (tmp_path / "shards").mkdir()
    with pytest.raises(ShardError, match="no "):
        read(str(tmp_path), steps=1)


def test_latents_of_two_releases_keep_the_weights_of_their_cells_and_other_tables_are_told(tmp_path):
    for name, columns in (("old", {}), ("new", {"mask_weight": [b"w"] * 4})):
        write_table(pa.table({"pair_id": list("abcd"), "row": list(range(4)), **columns}), f"{tmp_path}/{name}/shards")
    seen = []

    def noted(batch):
        seen.append(list(batch["mask_weight"]))
        return rows(batch)

    batches = Feed((f"{tmp_path}/old", f"{tmp_path}/new"), ("row", "mask_weight"), noted, cache=False).batches(8)
    next(batches)
    batches.close()

    assert sorted(map(str, seen[0])) == ["None"] * 4 + ["b'w'"] * 4
    with pytest.raises(ShardError, match="no column mask_latent, which is learned from here; give another run"):
        Feed((f"{tmp_path}/old",), ("row", "mask_latent"), rows).head(1)


def test_rows_of_runs_that_do_not_say_where_they_are_from_go_beside_others(tmp_path):
    for name, columns in (("bare", {}), ("other", {"origin": ["synthetic"] * 4})):
        write_table(pa.table({"pair_id": list("abcd"), "row": list(range(4)), **columns}), f"{tmp_path}/{name}/shards")
    seen = []

    def noted(batch):
        seen.extend(batch["origin"])
        return rows(batch)

    batches = Feed((f"{tmp_path}/bare", f"{tmp_path}/other"), ("row", "origin"), noted, cache=False).batches(8)
    next(batches)
    batches.close()

    assert sorted(map(str, seen[:8])) == ["None"] * 4 + ["synthetic"] * 4
