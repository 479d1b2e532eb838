"""Shards are there whole or not at all; what is missing from a run is a subtraction; anybody can read them."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from pipeline.base.errors import ShardError
from pipeline.cluster.sink import ShardSink
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables import healing, rows, shards
from pipeline.tables.healing import set_aside_broken
from pipeline.tables.ids import latent_id, pair_id
from pipeline.tables.rows import read_ids, read_shards, remaining
from pipeline.tables.schema import LATENT, PAIR
from pipeline.tables.shards import list_shards, remove_drafts

IDS = [pair_id("prompt", seed, "bundle", "{}") for seed in range(1000)]


def packed(ids: list[str], **columns: Any) -> pa.Table:
    """Rows as the pack stage makes them."""
    count = len(ids)
    image, mask = encode_image(np.full((4, 6, 3), 200, np.uint8)), encode_mask(np.eye(4, 6, dtype=np.uint8))
    common = {
        "pair_id": ids,
        "prompt": ["prompt"] * count,
        "seed": list(range(count)),
        "image": [image] * count,
        "mask": [mask] * count,
        "height": [4] * count,
        "width": [6] * count,
        "class_ids": [[0, 1]] * count,
        "class_pixels": [[20, 4]] * count,
        "origin": ["synthetic"] * count,
        "bundle": ["bundle"] * count,
        "sampler": ["{}"] * count,
        "error": [""] * count,
    }
    return pa.table({**common, **columns})


def sink(folder: Path | str, rows_per_shard: int = 100) -> ShardSink:
    return ShardSink(str(folder), rows_per_shard)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def break_write(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Writing a table puts half of it into the file, then raises `error`."""
    whole = pq.write_table

    def half(table: pa.Table, file: IO[bytes], **options: Any) -> None:
        whole(table.slice(0, table.num_rows // 2), file, **options)
        raise error

    monkeypatch.setattr(shards.pq, "write_table", half)


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    sink(tmp_path).write([packed(IDS[:3]), packed(IDS[3:5])], None)
    table = read_shards([str(tmp_path)])
    assert table.schema.equals(PAIR)
    assert table.schema.metadata == PAIR.metadata
    assert table["pair_id"].to_pylist() == IDS[:5]
    assert table["origin"].to_pylist() == ["synthetic"] * 5
    assert read_shards([str(tmp_path)] * 2, ["seed"]).num_columns == 1
    assert not (tmp_path / "errors").exists()


def test_hugging_face_pandas_and_arrow_read_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    sink(tmp_path).write([packed(IDS[:3])], None)
    (path,) = list_shards(str(tmp_path))
    row = load_dataset("parquet", data_files=[path], cache_dir=str(tmp_path / "cache"), split="train")[1]
    assert isinstance(row["image"], Image.Image)
    assert row["image"].size == (6, 4)
    np.testing.assert_array_equal(np.array(row["mask"]), np.eye(4, 6))
    assert (row["class_ids"], row["origin"], row["confidence"]) == ([0, 1], "synthetic", None)
    assert pd.read_parquet(path).loc[2, "pair_id"] == IDS[2]
    assert pq.read_table(path).num_rows == 3


def test_a_sink_writes_to_the_same_folder_from_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(sink("."))
    monkeypatch.chdir("/")
    pickle.loads(pickled).write([packed(IDS[:2])], None)
    assert read_ids(str(tmp_path)).to_pylist() == IDS[:2]


@pytest.mark.parametrize(("rows", "sizes"), [(30, [30]), (130, [130]), (150, [75, 75]), (250, [125, 125]), (0, [])])
def test_shards_are_near_the_wanted_size(tmp_path: Path, rows: int, sizes: list[int]) -> None:
    names = sink(tmp_path, rows_per_shard=100).write([packed(IDS[:rows])], None)
    assert [pq.read_metadata(tmp_path / "shards" / name).num_rows for name in names] == sizes


def test_row_groups_are_small_and_have_a_page_index(tmp_path: Path) -> None:
    (name,) = sink(tmp_path, rows_per_shard=250).write([packed(IDS[:250])], None)
    metadata = pq.read_metadata(tmp_path / "shards" / name)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [100, 100, 50]
    column = metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    assert column.has_column_index
    assert column.has_offset_index


def test_row_groups_of_large_pictures_hold_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_BYTES_PER_GROUP", 10_000)
    (name,) = sink(tmp_path).write([packed(IDS[:9], image=[os.urandom(4000)] * 9)], None)
    assert pq.read_metadata(tmp_path / "shards" / name).row_group(0).num_rows == 2


def test_blocks_of_different_types_are_joined(tmp_path: Path) -> None:
    """A block in which no row has a confidence map, a pandas block, and one with an unknown column."""
    blocks = [
        packed(IDS[:2], confidence=[None, None]),
        packed(IDS[2:4], confidence=[b"map", None]).to_pandas(),
        packed(IDS[4:6], unknown=[1, 2]).drop_columns(["sampler"]),
    ]
    sink(tmp_path).write(blocks, None)
    table = read_shards([str(tmp_path)])
    assert table["confidence"].to_pylist() == [None, None, {"bytes": b"map", "path": None}, None, None, None]
    assert table["sampler"].to_pylist() == ["{}"] * 4 + [None] * 2


def test_rows_that_failed_go_to_errors(tmp_path: Path) -> None:
    rows = packed(
        IDS[:4],
        error=["", "sampler_failed", "", "empty_prompt"],
        error_detail=["", "CUDA error", "", ""],
        image=[b"image", None, b"image", None],
    )
    sink(tmp_path).write([rows], None)
    assert read_ids(str(tmp_path), kinds=["shards"]).to_pylist() == [IDS[0], IDS[2]]
    errors = pq.read_table(list_shards(str(tmp_path), "errors")).to_pylist()
    assert errors[0] == {
        "pair_id": IDS[1],
        "prompt": "prompt",
        "seed": 1,
        "reason": "sampler_failed",
        "detail": "CUDA error",
    }
    assert errors[1]["reason"] == "empty_prompt"


def test_reasons_are_a_fixed_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\['oops'\] is not one of"):
        sink(tmp_path).write([packed(IDS[:2], error=["", "oops"])], None)


def test_a_retried_write_replaces_itself(tmp_path: Path) -> None:
    rows = packed(IDS[:250], error=["", "empty_prompt"] * 125)
    first = sink(tmp_path).write([rows], None)
    before = contents(tmp_path)
    assert sink(tmp_path).write([rows.slice(0, 100), rows.slice(100)], None) == first
    assert contents(tmp_path) == before


def test_a_name_depends_on_the_ids_alone(tmp_path: Path) -> None:
    first = sink(tmp_path).write([packed(IDS[:9])], None)
    assert sink(tmp_path / "other").write([packed(IDS[:9][::-1], height=[5] * 9)], None) == first
    assert sink(tmp_path).write([packed(IDS[:8])], None) != first


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom"), SystemExit(1)])
def test_a_write_that_is_cut_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    break_write(monkeypatch, error)
    with pytest.raises(type(error)):
        sink(tmp_path).write([packed(IDS[:10])], None)
    assert contents(tmp_path) == {}


def test_a_writer_killed_in_mid_write_leaves_a_draft_that_nobody_reads(tmp_path: Path) -> None:
    """SIGKILL runs no `except`, so the half file stays: hidden, not listed, and removed by the next run."""
    sink(tmp_path).write([packed(IDS[:3])], None)
    child = os.fork()
    if not child:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(shards.pq, "write_table", lambda table, file, **_: (file.write(b"PAR1"), os._exit(9)))
            shards.write_table(packed(IDS[3:6]), str(tmp_path / "shards"))
    os.waitpid(child, 0)
    assert len(contents(tmp_path)) == 2
    assert read_ids(str(tmp_path)).to_pylist() == IDS[:3]
    assert pq.read_table(tmp_path / "shards").num_rows == 3
    remove_drafts(str(tmp_path))
    assert len(contents(tmp_path)) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    break_write(monkeypatch, OSError(number, os.strerror(number)))
    with pytest.raises(ShardError) as caught:
        sink(tmp_path).write([packed(IDS[:10])], None)
    for part in ("cannot write", str(tmp_path / "shards"), os.strerror(number), "free space", "same command again"):
        assert part in str(caught.value)
    assert contents(tmp_path) == {}


def test_a_full_disk_noticed_by_fsync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ShardError, match="No space left on device"):
        sink(tmp_path).write([packed(IDS[:10])], None)
    assert contents(tmp_path) == {}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def overwrite_middle(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) - 3000) + content[-2996:])


@pytest.mark.parametrize("damage", [truncate, overwrite_middle, lambda path: path.write_bytes(b"")])
def test_a_broken_shard_is_named_with_its_mend(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    names = sink(tmp_path).write([packed(IDS[:200])], None)
    broken = tmp_path / "shards" / names[1]
    damage(broken)
    readers: list[Callable[[], object]] = [lambda: read_ids(str(tmp_path)), lambda: read_shards([str(tmp_path)])]
    for read in readers:
        with pytest.raises(ShardError) as caught:
            read()
        assert str(broken) in str(caught.value)
        assert "delete it and run the same command again" in str(caught.value)


def test_remaining_is_the_plan_minus_what_is_there(tmp_path: Path) -> None:
    plan = pa.table({"pair_id": IDS[:10], "prompt": ["prompt"] * 10})
    assert remaining(plan, str(tmp_path)).equals(plan)
    sink(tmp_path).write([packed(IDS[:3] + IDS[500:600])], None)
    sink(tmp_path).write([packed(IDS[5:7], error=["", "sampler_failed"])], None)
    assert remaining(plan, str(tmp_path))["pair_id"].to_pylist() == [*IDS[3:5], *IDS[7:10]]
    assert remaining(plan, str(tmp_path), retry_errors=True)["pair_id"].to_pylist() == [*IDS[3:5], *IDS[6:10]]
    sink(tmp_path).write([packed(remaining(plan, str(tmp_path))["pair_id"].to_pylist())], None)
    assert remaining(plan, str(tmp_path)).num_rows == 0


def test_the_two_latents_of_a_pair_are_told_apart(tmp_path: Path) -> None:
    keys = [(IDS[0], False), (IDS[0], True), (IDS[1], False), (IDS[1], True)]
    plan = pa.table({"latent_id": [latent_id(*key) for key in keys], "pair_id": [pair for pair, _ in keys]})
    binary = {name: [b"\0\0"] * 3 for name in ("image_latent", "mask_latent", "image_embedding", "text_embedding")}
    rows = pa.table({**plan.slice(0, 3).to_pydict(), "flipped": [False, True, False], **binary})
    names = ShardSink(str(tmp_path), 2, LATENT).write([rows], None)
    assert len(names) == 2
    assert remaining(plan, str(tmp_path), key="latent_id")["latent_id"].to_pylist() == [latent_id(IDS[1], True)]


def test_folders_without_shards_are_refused(tmp_path: Path) -> None:
    assert list_shards(str(tmp_path / "nowhere")) == []
    assert read_ids(str(tmp_path)).to_pylist() == []
    with pytest.raises(ShardError, match=f"no shards in {tmp_path}/shards; give the folder of a run"):
        read_shards([str(tmp_path)])
    sink(tmp_path).write([packed(IDS[:1])], None)
    with pytest.raises(ShardError, match="has a column clip_score"):
        read_shards([str(tmp_path)], ["clip_score"])


def test_object_stores_get_one_put_and_no_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    puts: list[str] = []
    put = store.pipe_file

    def count_put(path: str, value: bytes) -> None:
        puts.append(path)
        put(path, value)

    monkeypatch.setattr(store, "pipe_file", count_put)
    folder = "memory://bucket/run"
    try:
        names = sink(folder).write([packed(IDS[:200], error=["", "empty_prompt"] * 100)], None)
        assert puts == [f"/bucket/run/shards/{names[0]}", f"/bucket/run/errors/{names[1]}"]
        assert sorted(read_ids(folder).to_pylist()) == sorted(IDS[:200])
        assert read_shards([folder], ["pair_id"])["pair_id"].to_pylist() == IDS[:200:2]
        break_write(monkeypatch, OSError("connection lost"))
        with pytest.raises(ShardError, match=f"cannot write {folder}/shards/.*connection lost"):
            sink(folder).write([packed(IDS[200:210])], None)
        assert len(puts) == 2
    finally:
        store.rm("/bucket", recursive=True)


def test_ids_of_many_shards_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming touches the key column only, never pictures."""
    sink(tmp_path, rows_per_shard=10).write([packed(IDS)], None)
    asked: list[list[str] | None] = []
    read = rows.read_columns

    def note_columns(path: str, columns: list[str] | None) -> pa.Table:
        asked.append(columns)
        return read(path, columns)

    monkeypatch.setattr(rows, "read_columns", note_columns)
    assert sorted(read_ids(str(tmp_path)).to_pylist()) == sorted(IDS)
    assert asked == [["pair_id"]] * 100


@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_bytes(b"")])
def test_broken_shards_are_set_aside_and_good_ones_stay(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    names = sink(tmp_path).write([packed(IDS[:200])], None)
    damage(tmp_path / "shards" / names[1])
    assert set_aside_broken(str(tmp_path)) == [f"{tmp_path}/broken/{names[1]}"]
    assert (tmp_path / "broken" / names[1]).exists()
    assert len(read_ids(str(tmp_path))) == 200 - 100
    assert set_aside_broken(str(tmp_path)) == []


def test_a_shard_that_cannot_be_reached_is_not_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink(tmp_path).write([packed(IDS[:10])], None)

    def refuse(path: str) -> None:
        raise ShardError("a store that hiccups")

    monkeypatch.setattr(healing, "read_keys", refuse)
    with pytest.raises(ShardError, match="hiccups"):
        set_aside_broken(str(tmp_path))
    assert not (tmp_path / "broken").exists()
