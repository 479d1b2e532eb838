"""The sink writes rows as shards of the wanted size, and those that failed apart."""

from __future__ import annotations

import pickle
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from pipeline.base.errors import ShardError
from pipeline.cluster.sink import ShardSink
from pipeline.tables.rows import read_ids, read_shards
from pipeline.tables.shards import list_shards
from tests.pipeline.tables.fabricated import IDS, break_write, contents, packed, sink


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


def test_large_rows_are_bounded_by_bytes_too(tmp_path: Path) -> None:
    rows = packed(IDS[:64])

    names = ShardSink(str(tmp_path), 100, shard_bytes=rows.nbytes // 4).write([rows], None)

    assert [pq.read_metadata(tmp_path / "shards" / name).num_rows for name in names] == [16] * 4


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
