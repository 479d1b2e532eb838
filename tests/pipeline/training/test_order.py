"""Which rows a training takes of its folders, and how often: slices, shares, balance."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pytest

from models.labels import GARMENTS
from pipeline.base.errors import ConfigError, ShardError
from pipeline.base.log import set_up_logging
from pipeline.tables.shards import write_table
from pipeline.training.feed import Feed
from pipeline.training.fit import tell_of_unprompted
from pipeline.training.order import Order, bounds, groups_of, ids_of, require_held_out
from tests.tiny import save_pairs

CLASSES = [[0, 1]] * 64 + [[0, 2]] * 16 + [[0, 1, 3]] * 4 + [[0]] * 14 + [[0, 255]] * 2


def rows(batch):
    return {"row": np.asarray(batch["row"], np.int64)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hundred rows in two shards, whose ids are in no order; row is the rank of its id."""
    run = tmp_path_factory.mktemp("run")
    order = np.random.default_rng(0).permutation(100)
    for part in (order[:37], order[37:]):
        ids = [f"{row:032x}" for row in part]
        write_table(
            pa.table({"pair_id": ids, "row": part, "class_ids": [CLASSES[row] for row in part]}), f"{run}/shards"
        )
    GARMENTS.save(run / "label_space.json")
    return str(run)


def taken(folders, *, steps=20, batch=10, start=0, places=None, **settings):
    batches = Feed(tuple(folders), ("row",), rows, **settings).batches(batch, start, places)
    found = [one["row"].tolist() for one in islice(batches, steps)]
    batches.close()
    return found


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("text", "wanted"), [("0:30", range(30)), ("30:", range(30, 100)), (":", range(100))])
def test_a_slice_takes_the_pairs_of_these_ranks_by_their_ids(folder, text, wanted, cache):
    steps = len(wanted) // 10
    assert sorted(chain(*taken([folder], steps=steps, slices=(text,), cache=cache))) == list(wanted)


def test_a_larger_slice_holds_a_smaller_one_and_the_rest_nothing_of_it(folder):
    small, large, rest = (
        {row for one in taken([folder], slices=(text,), steps=30) for row in one} for text in ("0:20", "0:50", "20:")
    )
    assert small < large and small.isdisjoint(rest) and small | rest == set(range(100))


@pytest.mark.parametrize("shares", [(1, 1), (3, 1), (1, 4), (0.55, 0.45)])
def test_rows_of_a_batch_come_from_folders_by_their_shares_whatever_their_sizes(folder, shares):
    found = taken([folder, folder], steps=40, slices=("0:10", "10:"), shares=shares)
    num_first = sum(row < 10 for one in found for row in one)
    assert num_first == pytest.approx(400 * shares[0] / sum(shares), abs=1)
    exact = 10 * shares[0] / sum(shares)
    assert all(abs(sum(row < 10 for row in one) - exact) <= 1 for one in found), "of every batch"
    each = Counter(row for one in found for row in one if row < 10)
    assert max(each.values()) - min(each.values()) <= 1, "each row of a folder once in its epoch"


def test_workers_share_a_mixed_batch_and_any_step_is_gone_on_with(folder):
    mixed = {"slices": ("0:10", "10:"), "shares": (3, 1)}
    alone = taken([folder, folder], **mixed)
    first, second = (taken([folder, folder], places=places, **mixed) for places in (range(4), range(4, 10)))
    assert [one + other for one, other in zip(first, second, strict=True)] == alone
    assert taken([folder, folder], start=15, steps=5, **mixed) == alone[15:]


def test_statistics_are_counted_over_a_fair_part_of_all_folders(folder):
    feed = Feed((folder, folder), ("row",), rows, slices=("0:10", "10:"), shares=(1, 4))
    found = feed.drawn(40, 10)["row"]
    assert len(found) == 40 and (found < 10).sum() == 8
    assert found.tolist() == list(chain(*taken([folder, folder], steps=4, slices=("0:10", "10:"), shares=(1, 4))))


def test_folders_without_shares_are_balanced_as_one_set(folder, tmp_path):
    table = pa.table({"pair_id": [f"more{n}" for n in range(64)], "class_ids": [[0, 2]] * 64})
    write_table(table.append_column("row", pa.array(range(64))), f"{tmp_path}/shards")
    GARMENTS.save(tmp_path / "label_space.json")
    one_set = groups_of((folder, str(tmp_path)), balanced=True)
    assert sum(len(group.rows) for group in one_set if group.folder == 1) == 64, "class 2 is frequent in both together"


def test_rows_of_rare_classes_come_more_often(folder):
    groups = groups_of((folder,), balanced=True)
    order = Order(groups, 10, seed=0)
    count = sum(len(group.rows) for group in groups)
    times = Counter(taken([folder], batch=count, steps=1, balanced=True)[0])
    frequent, middle, rare, none = (
        np.mean([times[row] for row in rows]) for rows in (range(64), range(64, 80), range(80, 84), range(84, 100))
    )
    assert frequent == 1 and none == 1, "rows of the most frequent class, and of none"
    assert middle == pytest.approx((68 / 16) ** 0.5, abs=0.15) and rare == pytest.approx((68 / 4) ** 0.5, abs=0.3)
    assert len(order.at(np.arange(50))[0]) == 50
    part = Counter(taken([folder], batch=count, steps=1, balanced=True, slices=("64:80",))[0])
    assert set(part) == set(range(64, 80)) and max(part.values()) - min(part.values()) <= 1, "frequencies of the slice"


@pytest.mark.parametrize("text", ["12", "a:b", "3:3", "5:2", "-1:4", ""])
def test_what_is_no_slice_is_told(text):
    with pytest.raises(ValueError, match="slice"):
        bounds(text)


def test_a_slice_without_rows_and_rows_without_classes_are_told(folder, tmp_path):
    for text in ("100:", "50:101"):
        with pytest.raises(ShardError, match=f"the slice {text} asks for more than its 100 pairs"):
            groups_of((folder,), (text,))
    write_table(pa.table({"pair_id": ["a"]}), f"{tmp_path}/shards")
    GARMENTS.save(tmp_path / "label_space.json")
    with pytest.raises(ConfigError, match="name no classes to balance"):
        groups_of((str(tmp_path),), balanced=True)


def test_pictures_without_masks_are_no_rows_where_masks_are_read(tmp_path):
    folder = save_pairs(tmp_path / "some", 12, num_labelled=5, size_px=32, num_shards=3)

    every, labelled = (groups_of([str(folder)], labelled=which) for which in (False, True))

    assert [sum(len(group.rows) for group in groups) for groups in (every, labelled)] == [12, 5]
    assert len(ids_of(str(folder))) == 12 and len(ids_of(str(folder), which="labelled")) == 5
    first = ids_of(str(folder), "0:6", which="labelled")
    assert set(first) < set(ids_of(str(folder), "0:6")), "a slice counts all pictures"
    bare = save_pairs(tmp_path / "bare", 4, num_labelled=0, size_px=32)
    with pytest.raises(ShardError, match="none of its pictures has a mask to learn from"):
        groups_of([str(folder), str(bare)], labelled=True)


def test_rows_without_prompts_are_left_out_where_prompts_are_learned(tmp_path, caplog):
    for name, prompts in (("some", ["a red bag", None, "a boot"]), ("bare", [None, None])):
        table = pa.table({"pair_id": [f"{name}{row}" for row in range(len(prompts))]})
        write_table(table.append_column("prompt", pa.array(prompts, pa.string())), f"{tmp_path}/{name}/shards")
    some, bare = f"{tmp_path}/some", f"{tmp_path}/bare"

    assert [group.rows.tolist() for group in Feed((some,), ("prompt",), dict).groups()] == [[0, 2]]
    assert [group.rows.tolist() for group in groups_of([some])] == [[0, 1, 2]]
    tell_of_unprompted([some], ())
    assert "1 of 3 pictures have no prompt and are left out; jobs.caption makes some" in caplog.text
    with pytest.raises(
        ShardError, match=r"bare: none of its pictures has a prompt .* caption them first \(jobs.caption"
    ):
        groups_of([some, bare], prompted=True)


def test_pairs_to_judge_on_are_two_pictures_at_least_and_few_are_told(capsys):
    with pytest.raises(ConfigError, match="validation: no picture of runs/one has a mask; give another run"):
        require_held_out("runs/one", 0, 0)
    with pytest.raises(ConfigError, match=r"runs/one has 3 labelled pair\(s\) of one picture, .* give a run of 30"):
        require_held_out("runs/one", 3, 1)
    set_up_logging()
    require_held_out("runs/few", 29, 29)
    assert "runs/few has 29 labelled pairs, fewer than 30" in capsys.readouterr().out
    require_held_out("runs/mine", 30, 30)
    assert not capsys.readouterr().out
