"""Scores of a run, kind by kind, through Ray: gone on with, bound to what made them; and a selection by them."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError
from transformers import ViTConfig, ViTForImageClassification

from models.picture_classifier import SETTINGS
from pipeline.base.errors import ConfigError, DataError, ShardError
from pipeline.curate import CurateConfig, curate
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.export import ExportConfig, export
from pipeline.reader import PairDataset
from pipeline.score import SCORERS, ScoreConfig, Scorer, cover, score
from pipeline.stages import score_nearest
from pipeline.tables.label_space import LABELS
from pipeline.tables.rows import read_ids, read_shards
from pipeline.tables.scores import copies_in, read_coverage, read_scores
from pipeline.tables.selection import write_selection
from pipeline.tables.shards import FAILED, MADE, list_shards, write_table
from pipeline.training import proving
from pipeline.training.order import ids_of
from tests.pipeline.fabricated import fit_at_once
from tests.tiny import save_pairs

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_session):
    """Scores of all kinds of twenty pairs, two of which are copies of real ones."""
    folder = tmp_path_factory.mktemp("scores")
    real = save_pairs(folder / "real", 40, size_px=32)
    pairs = save_pairs(folder / "pairs", 20, "validation", size_px=32, num_labelled=19)
    copied = read_shards([str(real)]).sort_by("pair_id").slice(0, 2)
    ids = pa.array(["f" * 32, "e" * 32])
    column = copied.schema.get_field_index("pair_id")
    write_table(copied.set_column(column, copied.schema.field(column), ids), f"{pairs}/shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proving, "fit", fit_at_once)
        patch.setattr("pipeline.training.order.LEAST_HELD_OUT", 8)
        score(config(folder))
    return folder


def config(folder, **changes) -> ScoreConfig:
    values = {
        "run": "scores", "runs": str(folder), "pairs": str(folder / "pairs"), "real": (str(folder / "real"),),
        "width": 4, "steps": 2, "unwanted": {"words": ["nothing like this"]}, "workers": {"threads": 1},
    }  # fmt: skip
    return ScoreConfig.model_validate({**values, **changes})


def test_every_pair_has_its_scores_of_each_kind(place):
    ids = read_ids(str(place / "pairs"))
    names = ["sharpness", "blocked", "agreement", "noisy", "nearest_id", "nearest_ratio", "nearest_bits"]
    found = {name: values.to_pylist() for name, values in read_scores(str(place / "scores"), names, ids).items()}
    assert all(one is not None for name in ("sharpness", "blocked", "nearest_ratio") for one in found[name])
    assert sum(one is None for one in found["agreement"]) == 1, "one picture has no mask"
    copies = [place for place, one in enumerate(ids.to_pylist()) if one in ("f" * 32, "e" * 32)]
    originals = sorted(read_ids(str(place / "real")).to_pylist())[:2]
    assert sorted(found["nearest_id"][one] for one in copies) == originals
    assert max(found["nearest_ratio"][one] for one in copies) < 0.01
    assert [found["nearest_bits"][one] for one in copies] == [0, 0]


def test_copies_are_called_out_by_name(place, caplog):
    with caplog.at_level(logging.WARNING):
        score(config(place, kinds=("nearest",)))
    assert "pairs, 2 of 22 pairs are copies of real ones" in caplog.text


def test_copies_of_real_pictures_without_masks_are_found(ray_session, tmp_path):
    bare = sorted(read_bare(save_pairs(tmp_path / "real", 12, size_px=32, num_labelled=6)))
    save_pairs(tmp_path / "pairs", 8, "validation", size_px=32)
    rows = read_shards([str(tmp_path / "real")]).sort_by("pair_id")
    copied = rows.filter(pc.is_in(rows["pair_id"], pa.array(bare[:2])))
    write_table(
        copied.set_column(0, copied.schema.field(0), pa.array(["e" * 32, "f" * 32])), f"{tmp_path}/pairs/shards"
    )
    score(config(tmp_path, kinds=("nearest",)))
    copies = copies_in(str(tmp_path / "scores"))
    assert copies and set(copies.rows["pair_id"].to_pylist()) == {"e" * 32, "f" * 32}
    assert set(copies.rows["nearest_id"].to_pylist()) == set(bare[:2])


def test_the_set_as_a_whole_is_compared_once_for_the_same_sets(place, caplog, monkeypatch):
    found = read_coverage(str(place / "scores"))
    assert found and found.found.pictures == 22 and found.held_out is None
    assert 1 <= found.found.vendi <= 22 and 0 <= found.found.coverage <= 1
    file = place / "scores" / "coverage.json"
    before = file.stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        score(config(place, kinds=("nearest",)))
    assert "22 pictures cover" in caplog.text and file.stat().st_mtime_ns == before

    score(config(place, run="others", kinds=("nearest",), validation=str(place / "real")))
    held_out = read_coverage(str(place / "others"))
    assert held_out and held_out.held_out and held_out.held_out.coverage == 1, "real pictures are among themselves"
    assert "held-out real ones 100%" in str(held_out)

    file.write_text("{}")
    with pytest.raises(ShardError, match=r"coverage\.json: damaged; remove it and run jobs\.score again"):
        read_coverage(str(place / "scores"))
    file.unlink()
    assert read_coverage(str(place / "scores")) is None


def test_too_few_pictures_say_nothing_of_a_set_as_a_whole(ray_session, tmp_path, caplog):
    few = str(save_pairs(tmp_path / "few", 5, "test"))
    save_pairs(tmp_path / "real", 8)
    save_pairs(tmp_path / "pairs", 8, "validation")
    run: Any = SimpleNamespace(folder=tmp_path / "scores", tracker=SimpleNamespace(metrics=lambda found: None))
    for changes in ({"real": (few,)}, {"pairs": few}):
        cover(config(tmp_path, **changes), run)
        assert read_coverage(str(run.folder)) is None
    with caplog.at_level(logging.WARNING):
        cover(config(tmp_path, validation=few), run)
    found = read_coverage(str(run.folder))
    assert found and found.found.pictures == 8 and found.held_out is None
    assert "validation holds 5 pictures, too few" in caplog.text


def test_another_device_that_reckons_a_little_differently_goes_on(place, monkeypatch):
    monkeypatch.setattr(proving, "fit", fit_at_once)
    monkeypatch.setattr("pipeline.training.order.LEAST_HELD_OUT", 8)
    monkeypatch.setattr("pipeline.score.usual_losses", None)  # those of the judge are taken as they were
    describe = score_nearest.describe_real

    def otherwise(*arguments):
        content, copy_ratio = describe(*arguments)
        return content, copy_ratio * 1.001

    monkeypatch.setattr(score_nearest, "describe_real", otherwise)
    score(config(place, kinds=("nearest", "judge")))
    with pytest.raises(ConfigError, match="begun with another config:\n  made_with: "):
        score(config(place, kinds=("nearest",), slices=("0:39",)))


def test_it_goes_on_with_what_is_missing_and_remakes_nothing(place, monkeypatch):
    monkeypatch.setattr(proving, "fit", fit_at_once)
    folder = str(place / "scores/plain")
    before = read_shards([folder]).sort_by("pair_id")
    half = before.slice(0, 9)
    for one in list_shards(folder):
        Path(one).unlink()
    write_table(half, f"{folder}/shards")
    score(config(place, kinds=("plain",)))
    assert read_shards([folder]).sort_by("pair_id").equals(before) and len(list_shards(folder)) == 2
    made = {one: Path(one).stat().st_mtime_ns for one in list_shards(folder)}
    score(config(place, kinds=("plain",)))
    assert made == {one: Path(one).stat().st_mtime_ns for one in list_shards(folder)}
    with pytest.raises(ConfigError, match="begun with another config:\n  made_with: "):
        score(config(place, kinds=("plain",), unwanted={"words": ["other"]}))


def test_a_trained_segmenter_judges_in_place_of_a_new_one(place, monkeypatch):
    monkeypatch.setattr(proving, "fit", None)  # nothing is trained
    trained = next((place / "scores").glob("judge-0-*/weights"))
    held_out = str(save_pairs(place / "held-out", 12, "test", size_px=32))
    given = {"kinds": ("judge",), "judge_weights": (str(trained),)}
    score(config(place, run="judged", validation=held_out, **given))
    ids = read_ids(str(place / "pairs"))
    found = [read_scores(str(place / run), ["agreement"], ids)["agreement"] for run in ("judged", "scores")]
    assert found[0].equals(found[1]), "the same segmenter sees the same"
    with pytest.raises(ValidationError, match="say with `validation` which real pairs"):
        config(place, **given)
    with pytest.raises(ValidationError, match="leave it out beside judge_weights"):
        config(place, validation=held_out, augmentation="mild", **given)
    with pytest.raises(ConfigError, match="judge_weights: .* do not fit unet_small of width 8"):
        score(config(place, run="other", validation=held_out, width=8, **given))


def test_a_network_says_which_pictures_nobody_wants(place, tmp_path):
    settings = {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    names = ViTConfig(**sizes, image_size=32, patch_size=8, id2label={0: "normal", 1: "nsfw"}, label2id={})
    ViTForImageClassification(names).save_pretrained(tmp_path)
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    score(config(place, kinds=("safety",), safety={"model": str(tmp_path)}))
    found = read_scores(str(place / "scores"), ["unsafe"], read_ids(str(place / "pairs")))["unsafe"].to_pylist()
    assert len(found) == 22 and all(0 < one < 1 for one in found)
    with pytest.raises(ConfigError, match=f"gore is nothing that {tmp_path} calls a picture; it knows normal, nsfw"):
        score(config(place, run="other", kinds=("safety",), safety={"model": str(tmp_path), "names": ["gore"]}))


def test_a_selection_by_scores_is_trained_on_and_exported(place, tmp_path, monkeypatch):
    monkeypatch.setattr(proving, "fit", fit_at_once)
    values = {"run": "chosen", "runs": str(place), "pairs": str(place / "pairs"), "scores": str(place / "scores")}
    curate(CurateConfig.model_validate({**values, "rules": {"best": {"agreement": 0.5}, "within": "all"}}))
    chosen = str(place / "chosen")
    text = (place / "chosen" / "selection.md").read_text()
    assert "| a copy of a real pair | 2 |" in text and "agreement not among the best 50 %" in text
    kept = read_shards([chosen], ["pair_id"])["pair_id"].to_pylist()
    assert not {"f" * 32, "e" * 32} & set(kept) and 9 <= len(kept) <= 11
    labelled = set(kept) - set(read_bare(place / "pairs"))
    assert {example["pair_id"] for example in PairDataset(chosen)} == labelled
    proof = evaluate(
        EvaluateConfig.model_validate(
            {
                "run": "proof", "runs": str(tmp_path), "sets": {"real": [str(place / "real")], "chosen": [chosen]},
                "test": str(save_pairs(tmp_path / "test", 6, "test", size_px=32)), "steps": 2, "width": 4,
                "batch_size": 4,
            }
        )
    )  # fmt: skip
    assert proof.sets[1].pairs == len(labelled)
    export(ExportConfig.model_validate({"run": "out", "runs": str(tmp_path), "train": (chosen,), "format": "coco"}))
    written = json.loads(next((tmp_path / "out/export").rglob("*train*.json")).read_text())
    assert len(written["images"]) == len(labelled)
    again = {**values, "run": "again", "pairs": chosen, "rules": {"target": 3}}
    curate(CurateConfig.model_validate(again))
    narrowed = set(read_shards([str(place / "again")], ["pair_id"])["pair_id"].to_pylist())
    assert len(narrowed) == 3 and narrowed <= set(kept), "a selection of what another one keeps"
    by_column = {**values, "run": "sure", "rules": {"at_least": {"confidence_mean": 0.5}}}
    curate(CurateConfig.model_validate(by_column))  # a column of the pairs, null here, which leaves none out
    assert read_shards([str(place / "sure")], ["pair_id"]).num_rows == 20
    curate(CurateConfig.model_validate({**values, "rules": {"target": 5}}))
    assert read_shards([chosen], ["pair_id"]).num_rows == 5, "another rule makes another view of the same pairs"
    with pytest.raises(DataError, match=r"no pair is left of 22: .*sharpness below 1e\+09"):
        curate(CurateConfig.model_validate({**values, "rules": {"at_least": {"sharpness": 1e9}}}))


def test_a_selection_that_is_made_again_is_scored_again(place, tmp_path):
    ids = sorted(read_ids(str(place / "pairs")).to_pylist())
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    shutil.copy(place / "pairs" / LABELS, chosen)
    for kept in (ids[:12], ids[12:], ids[8:15]):
        reasons = [None if one in kept else "not wanted" for one in ids]
        rows = pa.table({"pair_id": ids, "reason": pa.array(reasons, pa.string())})
        write_selection(str(chosen), str(place / "pairs"), rows)
        score(config(tmp_path, pairs=str(chosen), real=(), kinds=("plain",)))
        known = read_scores(str(tmp_path / "scores"), ["sharpness"], pa.chunked_array([kept]))["sharpness"]
        assert known.null_count == 0
    assert len(read_ids(str(tmp_path / "scores/plain"))) == len(ids), "no pair twice"


def read_bare(folder) -> list[str]:
    rows = read_shards([str(folder)], ["pair_id", "class_ids"]).to_pylist()
    return [row["pair_id"] for row in rows if not row["class_ids"]]


def test_what_cannot_be_scored_is_told(place):
    with pytest.raises(ValidationError, match="kinds: judge needs `real`: give it"):
        config(place, kinds=("judge",), real=())
    with pytest.raises(ValidationError, match="names are for a network that finds such pictures: give `safety.model`"):
        config(place, safety={"names": ["gore"]})
    with pytest.raises(ValidationError, match="embedder: only for scores by real pairs; give `real`, or leave it out"):
        config(place, real=(), embedder="somewhere")
    with pytest.raises(ValidationError, match="unwanted.words\n.*a blank word is found in most prompts; leave it out"):
        config(place, unwanted={"words": ["gun", " "]})
    with pytest.raises(ConfigError, match=r"unwanted.classes: kilt is no class; there are background"):
        score(config(place, unwanted={"classes": ["kilt"]}))


def test_pairs_that_are_not_scored_yet_are_not_kept_in_silence(place, tmp_path):
    more = {"run": "more", "runs": str(tmp_path), "pairs": str(place / "real"), "scores": str(place / "scores")}
    with pytest.raises(DataError, match="40 of 40 pairs have no scores of the kind plain yet; run the same jobs.score"):
        curate(CurateConfig.model_validate(more))


def test_a_pair_that_kills_what_scores_it_is_given_up_and_the_others_are_scored(tmp_path, ray_session, monkeypatch):
    pairs = save_pairs(tmp_path / "pairs", 6, size_px=32)
    bad = min(ids_of(str(pairs)))
    usual = SCORERS["plain"]

    def deadly(*args: Any) -> Scorer:
        scorer = usual(*args)

        def make() -> Any:
            stage = scorer.make()

            def killed(rows: pa.Table) -> pa.Table:
                if bad in rows["pair_id"].to_pylist():
                    os._exit(1)
                return stage(rows)

            return killed

        return replace(scorer, make=make)

    monkeypatch.setitem(SCORERS, "plain", deadly)
    score(ScoreConfig(run="scores", runs=str(tmp_path), pairs=str(pairs), kinds=("plain",)))

    folder = tmp_path / "scores" / "plain"
    assert len(read_ids(str(folder), kinds=[MADE])) == 5
    assert read_ids(str(folder), kinds=[FAILED]).to_pylist() == [bad]
