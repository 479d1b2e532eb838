"""Readers: every row once over ranks and workers, in an order that a cut run finds again; sets mixed by share."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from models.labels import LabelSpace
from pipeline.base.errors import ConfigError, DataError, MaskError, ShardError
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.reader import pair_dataset as reader
from pipeline.reader.pair_dataset import PairDataset, random_crop
from pipeline.storage.publish import write_bytes
from pipeline.tables import shards
from pipeline.tables.conform import conform
from pipeline.tables.rows import read_columns
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import list_shards, write_table

LABELS = LabelSpace.custom("shapes", ("disc", "box"))
ROWS_PER_GROUP = 4


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(shards, "MAX_ROWS_PER_GROUP", ROWS_PER_GROUP)


def write_pairs(
    folder: Path | str,
    num: int,
    *,
    origin: str = "real",
    num_shards: int = 2,
    labels: LabelSpace = LABELS,
    **columns: Any,
) -> str:
    """A run whose pair k is named "<folder's name> k", is k grey and has one pixel of class 1."""
    name = str(folder).rsplit("/", 1)[-1]
    sizes = [(4, 6 + number % 2) for number in range(num)]
    rows = {
        "pair_id": [f"{name} {number}" for number in range(num)],
        "prompt": ["a disc"] * num,
        "image": [encode_image(np.full((*size, 3), number % 256, np.uint8)) for number, size in enumerate(sizes)],
        "mask": [encode_mask(np.eye(1, size[0] * size[1], 5, dtype=np.uint8).reshape(size)) for size in sizes],
        "height": [size[0] for size in sizes],
        "width": [size[1] for size in sizes],
        "class_ids": [[0, 1]] * num,
        "class_pixels": [[size[0] * size[1] - 1, 1] for size in sizes],
        "origin": [origin] * num,
    }
    table = conform(pa.table(rows | columns), PAIR)
    for part in np.array_split(np.arange(num), num_shards):
        write_table(table.take(part), f"{folder}/shards")
    write_bytes(f"{folder}/label_space.json", labels.to_json().encode())
    return str(folder)


def ids(examples: Iterable[Any]) -> list[str]:
    return [example["pair_id"] for example in examples]


class AsWorker:
    """What a DataLoader tells the data set in one of its workers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def batches(self, stream: reader.PairStream, batch_size: int, num_workers: int) -> list[list[str]]:
        """The batches of a DataLoader with workers, a batch of each in turn, without its processes."""
        given = []
        for number in range(num_workers):
            info = type("Info", (), {"id": number, "num_workers": num_workers})
            self.monkeypatch.setattr(reader, "get_worker_info", lambda info=info: info)
            own = ids(stream)
            given.append([own[first : first + batch_size] for first in range(0, len(own), batch_size)])
        self.monkeypatch.undo()
        most = max(map(len, given))
        return [batches[turn] for turn in range(most) for batches in given if turn < len(batches)]


@pytest.fixture
def as_worker():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield AsWorker(monkeypatch)


def test_an_example_is_what_was_written(tmp_path):
    pairs = PairDataset(write_pairs(tmp_path / "real", 9, prompt=[None] * 9), columns=["height", "captions"])
    assert (len(pairs), pairs.labels) == (9, LABELS)
    example = next(one for one in pairs if one["pair_id"] == "real 3")
    assert {name: (value.dtype, value.shape) for name, value in example.items() if torch.is_tensor(value)} == {
        "image": (torch.uint8, (3, 4, 7)),
        "mask": (torch.int64, (4, 7)),
    }
    assert example["image"].unique().tolist() == [3] and example["mask"].flatten().nonzero().tolist() == [[5]]
    assert (example["prompt"], example["origin"], example["height"], example["captions"]) == ("", "real", 4, None)
    assert pairs[-1]["pair_id"] == pairs[8]["pair_id"]
    with pytest.raises(IndexError):
        pairs[9]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("world_size", "num_workers", "batch_size"), [(1, 1, 1), (3, 1, 1), (2, 3, 1), (2, 3, 4), (1, 4, 50)]
)
def test_every_row_is_given_once_over_ranks_and_workers(
    tmp_path, as_worker, shuffle, world_size, num_workers, batch_size
):
    pairs = PairDataset(write_pairs(tmp_path / "real", 43, num_shards=3))
    lengths, given = [], Counter[str]()
    for rank in range(world_size):
        stream = pairs.stream(shuffle=shuffle, rank=rank, world_size=world_size, batch_size=batch_size, window_groups=2)
        batches = as_worker.batches(stream, batch_size, num_workers)
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        lengths.append(len(stream))
        assert sum(map(len, batches)) == len(stream)
        given.update(one for batch in batches for one in batch)
    assert lengths == [43 // world_size] * world_size
    assert len(given) == given.total() == 43 // world_size * world_size


def test_an_epoch_has_an_order_of_its_own_and_always_the_same(tmp_path):
    pairs = PairDataset(write_pairs(tmp_path / "real", 40))
    stream = pairs.stream(seed=1, window_groups=2)
    first = ids(stream)
    assert ids(stream) == first == ids(pickle.loads(pickle.dumps(stream)))
    stream.set_epoch(1)
    orders = [
        first,
        ids(stream),
        ids(pairs.stream(seed=2, window_groups=2)),
        ids(pairs.stream(shuffle=False)),
        ids(pairs),
    ]
    assert orders[3] == orders[4] and len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == sorted(first) for order in orders)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("shares", [(), (1, 2)])
def test_a_stream_goes_on_with_the_batch_that_was_next(tmp_path, as_worker, num_workers, shares):
    pairs = PairDataset(write_pairs(tmp_path / "a", 11), write_pairs(tmp_path / "b", 30), shares=shares)
    options: dict[str, Any] = {"batch_size": 4, "rank": 1, "world_size": 2, "window_groups": 2}
    whole = as_worker.batches(pairs.stream(**options), 4, num_workers)
    for done in range(len(whole)):
        stream = pairs.stream(**options, start=4 * done)
        assert as_worker.batches(stream, 4, num_workers) == whole[done:]
        assert len(stream) == sum(map(len, whole[done:]))


def test_a_stream_reads_a_group_once_and_holds_few(tmp_path, monkeypatch):
    pairs = PairDataset(write_pairs(tmp_path / "real", 80, num_shards=1))
    read: list[int] = []
    read_group = pairs.read_group

    def spy(group: int) -> pa.Table:
        read.append(group)
        return read_group(group)

    monkeypatch.setattr(pairs, "read_group", spy)
    given = ids(pairs.stream(window_groups=4))
    assert sorted(read) == list(range(20))
    groups = [int(one.split()[1]) // ROWS_PER_GROUP for one in given]
    spans = [(groups.index(group), len(groups) - groups[::-1].index(group)) for group in range(20)]
    held = [sum(first <= at < last for first, last in spans) for at in range(80)]
    assert max(held) <= 4
    assert sum(before == after for before, after in pairwise(groups)) < 40  # in order of groups it would be 60


def test_shares_repeat_the_small_set_evenly(tmp_path):
    real, synthetic = write_pairs(tmp_path / "real", 7), write_pairs(tmp_path / "made", 20, origin="synthetic")
    pairs = PairDataset(real, synthetic, shares=(1, 1))
    assert len(pairs) == 40
    for examples in (pairs, pairs.stream(shuffle=False), pairs.stream(window_groups=1)):
        given = ids(examples)
        assert [one.split()[0] for one in given] == ["real", "made"] * 20
        counts = Counter(given)
        assert {counts[f"made {number}"] for number in range(20)} == {1}
        assert {counts[f"real {number}"] for number in range(7)} == {2, 3}
        assert len(set(given[:14:2])) == len(set(given[14:28:2])) == 7  # all of the small set before any of it again
    given = ids(pairs.stream())
    assert given[:14:2] != given[14:28:2]
    assert len(PairDataset(real, synthetic)) == 27
    assert len(PairDataset([real, synthetic], real, shares=(1, 1))) == 54
    assert Counter(one["origin"] for one in PairDataset(real, synthetic, shares=(3, 1))) == {
        "real": 60,
        "synthetic": 20,
    }
    assert Counter(one["origin"] for one in PairDataset(real, synthetic, shares=(0.1, 0.9))) == {
        "real": 7,
        "synthetic": 63,
    }


def test_pixels_under_the_threshold_are_ignored_in_synthetic_pairs_only(tmp_path):
    confidence = [encode_mask(np.full((4, 6 + number % 2), 100 + number, np.uint8)) for number in range(6)]
    made = write_pairs(tmp_path / "made", 6, origin="synthetic", confidence=confidence)
    real = write_pairs(tmp_path / "real", 6)
    pairs = PairDataset(made, real, ignore_below=103 / 255)
    ignored = {one["pair_id"]: bool((one["mask"] == 255).all()) for one in pairs}
    assert {name for name, all_of_it in ignored.items() if all_of_it} == {"made 0", "made 1", "made 2"}
    assert not any((one["mask"] == 255).any() for one in PairDataset(made, real))
    bare = write_pairs(tmp_path / "bare", 6, origin="synthetic")
    with pytest.raises(
        DataError, match="bare/shards/.*parquet, pair bare .* no confidence map.*--keep-confidence True"
    ):
        PairDataset(bare, ignore_below=0.5)[0]


def test_what_has_no_class_is_ignored(tmp_path):
    other = LabelSpace(**{**vars(LABELS), "zero": "other"})
    example = PairDataset(write_pairs(tmp_path / "real", 6, labels=other))[0]
    assert sorted(example["mask"].unique().tolist()) == [1, 255]


@pytest.mark.parametrize("size_px", [3, 4, 8])
def test_crops_make_batches_of_pairs_of_any_size(tmp_path, size_px):
    pairs = PairDataset(write_pairs(tmp_path / "real", 6), transform=partial(random_crop, size_px=size_px))
    batch = next(iter(DataLoader(pairs.stream(), batch_size=6)))
    assert batch["image"].shape == (6, 3, size_px, size_px) and batch["mask"].shape == (6, size_px, size_px)
    assert (batch["mask"] == 255).any() == (size_px > 4)
    assert len(batch["prompt"]) == 6


def test_row_groups_are_kept_within_limits(tmp_path):
    folder = write_pairs(tmp_path / "real", 40)
    for cache_mb, kept in ((256, 10), (0, 1)):
        pairs = PairDataset(folder, cache_mb=cache_mb)
        assert ids(pairs) == ids(PairDataset(folder))
        assert len(pairs._cache) == kept and not pickle.loads(pickle.dumps(pairs))._cache


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_share_the_rows_and_hear_of_the_next_epoch(tmp_path, context):
    crop = partial(random_crop, size_px=4)
    pairs = PairDataset(write_pairs(tmp_path / "a", 9), write_pairs(tmp_path / "b", 20), shares=(1, 1), transform=crop)
    stream = pairs.stream(batch_size=3, window_groups=2)
    loader = DataLoader(stream, batch_size=3, num_workers=2, persistent_workers=True, multiprocessing_context=context)
    epochs = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        batches = [batch["pair_id"] for batch in loader]
        assert len(batches) == len(loader) == 14
        epochs.append([one for batch in batches for one in batch])
    assert sorted(name.split()[0] for name in epochs[0]) == ["a"] * 20 + ["b"] * 20
    assert epochs[0] != epochs[1]


def test_pairs_are_read_from_a_store():
    fsspec.filesystem("memory").store.clear()
    pairs = PairDataset(write_pairs("memory://bucket/real", 9))
    assert sorted(ids(pairs.stream())) == sorted(ids(pairs)) == [f"real {number}" for number in range(9)]


def test_ranks_come_from_the_process_group(tmp_path, monkeypatch):
    pairs = PairDataset(write_pairs(tmp_path / "real", 9))
    assert pairs.stream().world_size == 1
    monkeypatch.setattr(reader.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(reader.distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(reader.distributed, "get_world_size", lambda: 4)
    assert (pairs.stream().rank, pairs.stream().world_size, len(pairs.stream())) == (2, 4, 2)
    with pytest.raises(ConfigError, match="rank and world_size, or neither"):
        pairs.stream(rank=1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"rank": 0, "world_size": 10}, "9 examples cannot be shared"),
        ({"batch_size": 4, "start": 3}, r"multiple of batch_size \(4\) up to 9"),
        ({"start": 10}, "up to 9"),
        ({"epoch": -1}, "epoch must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"window_groups": 0}, "window_groups 1 or more"),
    ],
)
def test_a_wrong_stream_is_refused(tmp_path, options, told):
    with pytest.raises(ConfigError, match=told):
        PairDataset(write_pairs(tmp_path / "real", 9)).stream(**options)


def test_a_wrong_data_set_is_refused(tmp_path):
    real = write_pairs(tmp_path / "real", 9)
    other = write_pairs(tmp_path / "other", 9, labels=LabelSpace.custom("other", ("disc",)))
    with pytest.raises(ConfigError, match="shares: one number above 0 for each of the 1 sets"):
        PairDataset(real, shares=(1, 2))
    with pytest.raises(ConfigError, match="shares"):
        PairDataset(real, shares=(0.0,))
    with pytest.raises(ConfigError, match="ignore_below: a probability"):
        PairDataset(real, ignore_below=90)
    with pytest.raises(ConfigError, match="columns: no shard has clip_scre"):
        PairDataset(real, columns=["clip_scre"])
    with pytest.raises(ConfigError, match="one of them is empty"):
        PairDataset()
    with pytest.raises(ShardError, match=f"no shards in {tmp_path}/absent/shards; give the folder"):
        PairDataset(tmp_path / "absent")
    with pytest.raises(DataError, match="one number would mean two things"):
        PairDataset(real, other)
    write_table(pa.table({"latent_id": ["a"]}), str(tmp_path / "real" / "shards"))
    with pytest.raises(ShardError, match="parquet: holds no pairs, it has no pair_id, image, mask, origin"):
        PairDataset(real)


def test_a_truncated_shard_is_named(tmp_path):
    (path,) = list_shards(write_pairs(tmp_path / "real", 9, num_shards=1))
    pairs = PairDataset(tmp_path / "real")
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])
    for read in (lambda: PairDataset(tmp_path / "real"), lambda: pairs[0], lambda: ids(pairs.stream())):
        with pytest.raises(ShardError, match=f"shard {path} is broken"):
            read()
    Path(path).unlink()
    with pytest.raises(ShardError, match=f"cannot reach shard {path}"):
        pairs[0]


@pytest.mark.parametrize(
    ("columns", "error", "told"),
    [
        ({"image": [b"\x89PNG"]}, DataError, "image: not a picture that can be decoded"),
        ({"mask": [b""]}, DataError, "mask: there is none, but one is needed"),
        ({"mask": [b"?"]}, DataError, "mask: not a picture"),
        (
            {"mask": [encode_mask(np.full((4, 6), 9, np.uint8))]},
            MaskError,
            "mask: the mask holds 9; label space 'shapes'",
        ),
        ({"mask": [encode_mask(np.zeros((3, 6), np.uint8))]}, MaskError, "mask: 3 x 6 pixels .* image has 4 x 6"),
    ],
)
def test_a_broken_pair_is_named(tmp_path, columns, error, told):
    with pytest.raises(error, match=told) as caught:
        PairDataset(write_pairs(tmp_path / "real", 1, num_shards=1, **columns))[0]
    assert str(caught.value).startswith(f"{tmp_path}/real/shards/") and ", pair real 0, " in str(caught.value)


def test_pictures_without_masks_are_passed_over(tmp_path):
    folders = [
        write_pairs(tmp_path / "full", 4),
        write_pairs(tmp_path / "bare", 8, mask=[b""] * 8, class_ids=[[]] * 8, class_pixels=[[]] * 8),
    ]
    rows = pa.concat_tables(read_columns(path) for folder in folders for path in list_shards(folder))
    order = np.random.default_rng(0).permutation(rows.num_rows)  # so that groups hold both, or bare ones alone
    write_table(rows.take(pa.array(order)), f"{tmp_path}/mixed/shards")
    LABELS.save(tmp_path / "mixed/label_space.json")

    mixed = PairDataset(tmp_path / "mixed", tmp_path / "bare")

    wanted = sorted(ids(PairDataset(tmp_path / "full")))
    assert len(mixed) == 4 and sorted(ids(mixed)) == sorted(ids(mixed.stream())) == wanted
    with pytest.raises(ShardError, match="hold no pairs"):
        PairDataset(tmp_path / "bare")
