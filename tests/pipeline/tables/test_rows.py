"""What is in a run, in small columns; what is missing from it is a subtraction."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.base.errors import ShardError
from pipeline.cluster.sink import ShardSink
from pipeline.tables import rows
from pipeline.tables.ids import latent_id
from pipeline.tables.rows import TEXTS, read_columns, read_ids, read_keys, read_shards, read_texts, remaining
from pipeline.tables.schema import LATENT, PAIR
from pipeline.tables.shards import list_shards
from tests.pipeline.tables.fabricated import IDS, packed, sink


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    sink(tmp_path).write([packed(IDS[:3]), packed(IDS[3:5])], None)
    table = read_shards([str(tmp_path)])
    assert table.schema.equals(PAIR)
    assert table.schema.metadata == PAIR.metadata
    assert table["pair_id"].to_pylist() == IDS[:5]
    assert table["origin"].to_pylist() == ["synthetic"] * 5
    assert read_shards([str(tmp_path)] * 2, ["seed"]).num_columns == 1
    assert not (tmp_path / "errors").exists()


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


def test_texts_come_in_the_order_of_ids_with_nulls_for_what_an_older_release_did_not_write(tmp_path: Path) -> None:
    sink(tmp_path / "a").write([packed(IDS[:2], captions=[["x", "y"], []])], None)
    sink(tmp_path / "b").write([packed(IDS[2:3])], None)
    (shard,) = list_shards(str(tmp_path / "b"))
    pq.write_table(pq.read_table(shard).drop_columns(["captions"]), shard)
    table = read_texts([str(tmp_path / "b"), str(tmp_path / "a")])
    assert table.column_names == TEXTS.names
    captions = dict(zip(IDS[:3], ([*"xy"], [], None), strict=True))
    assert table["pair_id"].to_pylist() == sorted(captions)
    assert table["captions"].to_pylist() == [captions[one] for one in sorted(captions)]


def test_a_column_that_a_shard_lacks_is_left_out_of_what_is_read(tmp_path: Path) -> None:
    sink(tmp_path).write([packed(IDS[:1])], None)
    (shard,) = list_shards(str(tmp_path))
    assert read_columns(shard, ["seed", "clip_score"]).column_names == ["seed"]
    assert read_keys(shard).to_pylist() == IDS[:1]
