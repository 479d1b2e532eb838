"""Which pairs a gallery shows, and what is known of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import yaml

from pipeline.base.errors import DataError, ShardError
from pipeline.pages.gallery_pictures import ROWS_PER_PART, Sizes
from pipeline.pages.gallery_rows import NEAREST, PLACE, RUN, SHARD, drawn, read_rows
from pipeline.tables.selection import write_selection
from pipeline.tables.shards import write_table
from tests.pipeline.pages.gallery_sets import SPACE, ids_of, save_scores, save_set


def test_runs_and_selections_in_the_order_that_is_given(tmp_path):
    first, second = save_set(tmp_path / "a", "a", 6), save_set(tmp_path / "b", "b", 4)
    kept = pa.table({"pair_id": second, "reason": ["no", None, None, "no"]})
    (tmp_path / "chosen").mkdir()
    SPACE.save(tmp_path / "chosen/label_space.json")
    write_selection(str(tmp_path / "chosen"), str(tmp_path / "b"), kept)
    (tmp_path / "b/config.yaml").write_text("bundle: weights\n")

    rows = read_rows([str(tmp_path / "chosen"), str(tmp_path / "a")], (), SPACE)
    assert set(rows.table["pair_id"].to_pylist()[:2]) == {second[1], second[2]}
    assert set(rows.table["pair_id"].to_pylist()[2:]) == set(first)
    assert rows.table[RUN].to_pylist() == [0] * 2 + [1] * 6
    assert [(one.name, one.bundle, one.hidden) for one in rows.sources] == [
        ("chosen", "weights", False),
        ("a", "", False),
    ]
    assert rows.sources[0].given == str(tmp_path / "b"), "what holds the pairs is what makes them again"
    assert {"image", "mask"}.isdisjoint(rows.table.column_names)
    assert rows.table["num_classes"].to_pylist() == [1] * 8
    assert rows.table["object_share"][0].as_py() == pytest.approx(22 * 16 / (24 * 32))


def test_a_pair_that_was_written_twice_is_shown_once(tmp_path):
    ids = save_set(tmp_path / "a", "a", 6)
    rows = read_rows([str(tmp_path / "a")], (), SPACE).table
    from pipeline.tables.rows import read_shards

    write_table(read_shards([str(tmp_path / "a")]).slice(0, 2), f"{tmp_path}/a/shards")
    again = read_rows([str(tmp_path / "a")], (), SPACE)
    assert rows.num_rows == again.table.num_rows == 6 and set(again.table["pair_id"].to_pylist()) == set(ids)
    assert sum(len(part.places) for part in again.parts(0)) == 6


def test_runs_of_one_name_get_names_that_differ(tmp_path):
    for parent in ("one", "two"):
        save_set(tmp_path / parent / "pairs", parent, 2)
    rows = read_rows([str(tmp_path / parent / "pairs") for parent in ("one", "two")], (), SPACE)
    assert len({one.name for one in rows.sources}) == 2 and all(one.name.startswith("pairs (") for one in rows.sources)


def test_selections_of_one_name_and_one_run_get_names_that_differ(tmp_path):
    kept = pa.table({"pair_id": save_set(tmp_path / "pairs", "p", 2), "reason": pa.nulls(2, pa.string())})
    chosen = [tmp_path / parent / "best" for parent in ("one", "two")]
    for folder in chosen:
        folder.mkdir(parents=True)
        SPACE.save(folder / "label_space.json")
        write_selection(str(folder), str(tmp_path / "pairs"), kept)
    rows = read_rows([str(one) for one in chosen], (), SPACE)
    assert [one.name for one in rows.sources] == [f"best ({one})" for one in chosen]


def test_scores_of_several_runs_come_together_and_the_real_pairs_that_are_near_are_hidden(tmp_path):
    first, second = save_set(tmp_path / "a", "a", 4), save_set(tmp_path / "b", "b", 2)
    real = save_set(tmp_path / "real", "r", 5, origin=["real"] * 5)
    save_scores(
        tmp_path / "scores-a", "nearest", first, nearest_id=[real[3], real[1], None, real[3]], nearest_ratio=[0.5] * 4
    )
    save_scores(tmp_path / "scores-a", "plain", first, sharpness=[4.0, 3, 2, 1])
    save_scores(tmp_path / "scores-b", "plain", second, sharpness=[9.0, 8])
    (tmp_path / "scores-a/config.yaml").write_text(
        yaml.safe_dump({"real": [str(tmp_path / "real"), str(tmp_path / "gone")]})
    )
    scores = [str(tmp_path / "scores-a"), str(tmp_path / "scores-b")]

    rows = read_rows([str(tmp_path / "a"), str(tmp_path / "b")], scores, SPACE)
    table = {row["pair_id"]: row for row in rows.table.to_pylist()}
    ids = rows.table["pair_id"].to_pylist()
    assert [one.hidden for one in rows.sources] == [False, False, True] and set(ids[6:]) == {real[1], real[3]}
    assert [table[one]["sharpness"] for one in (first[0], second[1], real[1])] == [4.0, 8.0, None]
    assert [table[one][NEAREST] for one in (first[0], first[2], second[0])] == [ids.index(real[3]), None, None]
    assert "sharpness" in rows.scores and "nearest_ratio" in rows.scores

    both = read_rows([str(tmp_path / "a"), str(tmp_path / "real")], scores[:1], SPACE)
    assert [one.hidden for one in both.sources] == [False, False], "they are shown already"
    assert rows.beside == " (of these 2 real ones that others are most like)" and both.beside == ""
    where = both.table["pair_id"].to_pylist()
    assert both.table[NEAREST][where.index(first[0])].as_py() == where.index(real[3])


def test_parts_are_rows_of_one_shard_and_large_ones_are_spread_over_all(tmp_path, monkeypatch):
    save_set(tmp_path / "a", "a", 10)
    rows = read_rows([str(tmp_path / "a")], (), SPACE)
    assert ROWS_PER_PART > 10
    monkeypatch.setattr("pipeline.pages.gallery_rows.ROWS_PER_PART", 3)
    parts = rows.parts(4)
    assert [len(part.places) for part in parts] == [3, 2, 3, 2] and [part.first for part in parts] == [0, 3, 5, 8]
    for part in parts:
        here = rows.table.slice(part.first, len(part.places))
        assert {rows.shards[one] for one in here[SHARD].to_pylist()} == {part.shard}
        assert here[PLACE].to_pylist() == part.places.tolist()
    assert np.concatenate([part.large for part in parts]).tolist() == drawn(rows.table["pair_id"], 4).tolist()
    assert sum(int(part.large.sum()) for part in rows.parts(100)) == 10
    assert not any(part.large.any() for part in rows.parts(0))


def test_pairs_that_are_kept_large_stay_so_until_a_set_is_about_twice_as_large():
    ids = pa.chunked_array([ids_of("a", 500), ids_of("b", 500)])
    assert drawn(ids, 1000).all() and not drawn(ids, 0).any()
    for most in (1, 10, 400, 999):
        assert most / 4 <= drawn(ids, most).sum() <= most
    before, after = drawn(ids.slice(0, 700), 200), drawn(ids.slice(0, 760), 200)
    np.testing.assert_array_equal(before, after[:700])
    assert not (drawn(ids, 200)[:700] & ~before).any(), "of the pairs before, only some fewer"


def test_pairs_that_were_made_anew_with_other_masks_are_other_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.pages.gallery_rows.shard_bytes", lambda _: 1000)

    def part_of(folder: str, **columns: list) -> tuple[str, str]:
        save_set(tmp_path / folder, "a", 2, num_shards=1, **columns)
        (part,) = read_rows([str(tmp_path / folder)], (), SPACE).parts(2)
        return part.shard.rpartition("/")[2], part.name(Sizes(64, 1024))

    first, again = part_of("first"), part_of("again")
    other = part_of("other", class_ids=[[0, 3, 255], [0, 1, 255]])
    assert first == again and first[0] == other[0] and first[1] != other[1]


def test_scores_of_other_pairs_are_told(tmp_path):
    save_set(tmp_path / "a", "a", 2)
    save_scores(tmp_path / "scores", "plain", ["other"], sharpness=[1.0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="scores: .*scores: scores of none of these pairs; give those made"):
        read_rows([str(tmp_path / "a")], [str(tmp_path / "scores")], SPACE)
    with pytest.raises(DataError, match="scores: .*empty: no scores; jobs.score makes them"):
        read_rows([str(tmp_path / "a")], [str(tmp_path / "empty")], SPACE)
    with pytest.raises(ShardError, match="no shards in .*empty"):
        read_rows([str(tmp_path / "empty")], (), SPACE)
