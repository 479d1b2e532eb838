"""Shards are there whole or not at all; anybody can read them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from pipeline.base.errors import ShardError
from pipeline.tables import shards
from pipeline.tables.rows import read_ids, read_shards
from pipeline.tables.shards import list_shards, remove_drafts
from tests.pipeline.tables.fabricated import IDS, break_write, contents, overwrite_middle, packed, sink, truncate


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
