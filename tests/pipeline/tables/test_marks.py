"""Marks of a gallery become a selection, and whatever they mark that is not there is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from pipeline.base.command_line import load
from pipeline.base.errors import ConfigError, DataError
from pipeline.curate import CurateConfig, curate, scores_of
from pipeline.tables.marks import read_marks
from pipeline.tables.rows import read_ids, read_shards
from pipeline.training.order import ids_of
from tests.pipeline.pages.gallery_sets import save_scores
from tests.tiny import save_pairs

IDS = pa.chunked_array([["a", "b"], ["c"]])


def save(path, **runs) -> str:
    marked = [{"name": name, "pairs": f"runs/{name}", "ids": ids} for name, ids in runs.items()]
    path.write_text(json.dumps({"format": 1, "gallery": "g", "runs": marked}))
    return str(path)


def test_those_of_other_runs_are_passed_over(tmp_path):
    path = save(tmp_path / "marks.json", mine=["c", "a"], other=["x", "y"])
    assert read_marks(path, IDS).tolist() == [True, False, True]


def test_of_two_views_that_share_pairs_either_may_be_given(tmp_path):
    path = save(tmp_path / "marks.json", one=["a", "b"], two=["b", "c"])
    assert read_marks(path, pa.chunked_array([["b", "a"]])).tolist() == [True, True]
    assert read_marks(path, pa.chunked_array([["b", "c", "d"]])).tolist() == [True, True, False]
    with pytest.raises(DataError, match="1 of 2 pairs of one in .* are not among these pairs: a; give the run or sel"):
        read_marks(path, pa.chunked_array([["b"]]))


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ({"mine": ["a", "x"]}, "1 of 2 pairs of mine in .*marks.json are not among these pairs: x; give the run"),
        ({"mine": ["a", *"ghijklm"]}, "7 of 8 pairs of mine .*: g, h, i, j, k, ...; give"),
        ({"other": ["x"], "third": ["y"]}, "marks none of these pairs, but some of other, third; give that run"),
    ],
)
def test_unknown_pairs_are_named(tmp_path, runs, told):
    with pytest.raises(DataError, match=told):
        read_marks(save(tmp_path / "marks.json", **runs), IDS)


@pytest.mark.parametrize("runs", [{}, {"mine": []}])
def test_a_file_without_marks_is_told(tmp_path, runs):
    with pytest.raises(DataError, match="marks no pair; mark some in the gallery"):
        read_marks(save(tmp_path / "marks.json", **runs), IDS)


def test_what_is_no_file_of_marks_is_told(tmp_path):
    with pytest.raises(DataError, match="there is no file .*none.json; the page of a gallery saves one"):
        read_marks(str(tmp_path / "none.json"), IDS)
    for text in ("", "[]", '{"format": 2}', '{"format": 1, "gallery": "", "runs": [{}]}'):
        (tmp_path / "marks.json").write_text(text)
        with pytest.raises(DataError, match="is not what the page of a gallery saves .*; save it again"):
            read_marks(str(tmp_path / "marks.json"), IDS)


def test_marked_pairs_alone_are_kept_or_left_out(tmp_path):
    pairs = str(save_pairs(tmp_path / "pairs", 6))
    ids = sorted(read_ids(pairs).to_pylist())
    marks = save(tmp_path / "marks.json", pairs=ids[1:4])
    values = {"run": "chosen", "runs": str(tmp_path), "pairs": pairs, "marks": marks}

    curate(CurateConfig.model_validate(values))
    assert sorted(read_shards([f"{tmp_path}/chosen"], ["pair_id"])["pair_id"].to_pylist()) == ids[1:4]
    assert "| not marked | 3 |" in (tmp_path / "chosen/selection.md").read_text()

    curate(CurateConfig.model_validate({**values, "marked": "drop", "rules": {"target": 2}}))
    assert sorted(read_shards([f"{tmp_path}/chosen"], ["pair_id"])["pair_id"].to_pylist()) == [ids[0], ids[4]]
    assert "| marked | 3 |" in (tmp_path / "chosen/selection.md").read_text()


def test_something_must_say_what_to_keep(tmp_path):
    (tmp_path / "config.yaml").write_text(f"run: chosen\npairs: {tmp_path}\n")
    with pytest.raises(ConfigError, match="give `scores`, `marks` or both"):
        load(CurateConfig, tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="rules: agreement needs `scores`: give the run of jobs.score"):
        load(CurateConfig, tmp_path / "config.yaml", {"marks": "marks.json", "rules": {"best": {"agreement": 0.5}}})
    with pytest.raises(ConfigError, match="rules: agreement needs `scores`: give the run of jobs.score"):
        load(CurateConfig, tmp_path / "config.yaml", {"rules": {"best": {"agreement": 0.5, "confidence_mean": 0.5}}})


@pytest.mark.parametrize(
    ("kind", "idle"), [("nearest", ["drop_blocked", "alike_within_bits"]), ("plain", ["drop_copies"]), ("", [])]
)
def test_rules_that_do_nothing_are_told(tmp_path, kind, idle, caplog):
    ids = sorted(read_ids(str(save_pairs(tmp_path / "pairs", 6))).to_pylist())
    values = {"run": "chosen", "pairs": str(tmp_path / "pairs"), "scores": str(tmp_path / "scores")}
    for one in (kind,) if kind else ("nearest", "plain"):
        save_scores(tmp_path / "scores", one, ids)
    with caplog.at_level("WARNING"):
        scores_of(CurateConfig.model_validate(values), pa.chunked_array([ids]))
        rules = {"drop_blocked": False, "drop_copies": False, "alike_within_bits": -1}
        scores_of(CurateConfig.model_validate({**values, "rules": rules}), pa.chunked_array([ids]))
    assert [line.split()[1] for line in caplog.messages] == [f"rules.{rule}" for rule in idle]


def test_rules_on_what_pairs_say_of_themselves_need_nothing_else(tmp_path):
    pairs = str(save_pairs(tmp_path / "pairs", 6))
    values = {"run": "chosen", "runs": str(tmp_path), "pairs": pairs}
    for rules in ({"best": {"confidence_mean": 0.5}}, {"most_per_class": 9}, {"target": 2}):
        chosen = CurateConfig.model_validate({**values, "rules": rules})
    curate(chosen)
    assert sorted(read_ids(pairs).to_pylist())[:2] == ids_of(f"{tmp_path}/chosen")
