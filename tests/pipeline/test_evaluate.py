"""The proof: a row for each set, from trainings that serve again for as long as nothing that they depend on changes.

Segmenters are not trained here: tests/test_walkthrough.py does that.
"""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest

from models.labels import GARMENTS
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError, DataError
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.evaluation.results import Proof
from pipeline.pictures.codec import encode_mask
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import write_table
from pipeline.training import proving
from pipeline.training.sets import TrainingSet
from tests.pipeline.fabricated import fit_at_once, training_of
from tests.tiny import save_pairs


@pytest.fixture
def config(tmp_path, monkeypatch) -> EvaluateConfig:
    real, more, test = (
        str(save_pairs(tmp_path / name, num, split))
        for name, num, split in (("real", 10, "train"), ("more", 6, "validation"), ("test", 8, "test"))
    )
    monkeypatch.setattr(proving, "fit", fit_at_once)
    return EvaluateConfig(
        run="proof",
        runs=str(tmp_path / "runs"),
        sets={"real": TrainingSet(train=(real,)), "both": TrainingSet(train=(real, more))},
        test=test,
        judged=more,
        seeds=2,
        epochs=3,
        width=4,
        batch_size=4,
    )


def changed(config: EvaluateConfig, **changes) -> EvaluateConfig:
    return config.model_copy(update=changes)


def name_of(config: EvaluateConfig, name: str = "real", seed: int = 0) -> str:
    return training_of(config, name, seed).run


def test_the_proof_has_a_row_for_each_set_and_a_score_for_each_seed(config):
    proof = evaluate(config)
    rows = [(one.name, one.pairs, one.steps) for one in proof.sets]
    assert rows == [("real", 10, 8), ("both", 16, 8)], "rows of different steps cannot be compared"
    assert all(len(one.miou) == 2 and len(set(one.miou)) == 2 for one in proof.sets)
    assert list(proof.sets[0].iou) == list(GARMENTS.classes) == proof.classes and proof.seeds == [0, 1]
    assert proof.agreement and (proof.agreement.judge, proof.agreement.on) == ("real", config.judged)
    assert list(proof.prompt_match.values()) == [1], "built-in masks hold what their prompts say"
    assert Proof.model_validate_json((config.folder / "proof.json").read_text()) == proof
    assert len([one for one in config.folder.iterdir() if one.is_dir()]) == 4


def test_without_judged_pairs_there_is_no_agreement(config):
    proof = evaluate(changed(config, judged="", seeds=1))
    assert proof.agreement is None and proof.prompt_match == {}


def test_a_finished_training_serves_again(config):
    assert name_of(config) == name_of(config)
    assert name_of(config).startswith("proof/real-0-")
    same = [
        changed(config, workers=Workers(num=7)),
        changed(config, seeds=5),
        changed(config, judged=""),
        changed(config, sets={"real": config.sets["real"]}),
    ]
    assert {name_of(one) for one in same} == {name_of(config)}, "what it does not depend on"


def test_a_training_is_named_by_all_that_it_depends_on(config, tmp_path):
    names = [name_of(config), name_of(config, "both"), name_of(config, seed=1)]
    for changes in (
        {"epochs": 4.0},
        {"batch_size": 5},
        {"learning_rate": 1e-3},
        {"width": 8},
        {"size_px": 16},
        {"test_rows": 7},
        {"test": str(tmp_path / "more")},
        {"steps": 5},
        {"sets": {"real": TrainingSet(train=(str(tmp_path / "more"),))}},
        {"sets": {"real": TrainingSet(train=config.sets["real"].train, slices=("0:9",))}, "steps": 8},
        {"sets": {"real": TrainingSet(train=config.sets["real"].train, balanced=True)}},
        {"sets": {"real": TrainingSet(train=config.sets["real"].train, augmentation="strong")}},
        {"sets": {"real": TrainingSet(train=config.sets["real"].train, augmentation="copy_paste")}},
    ):
        names.append(name_of(changed(config, **changes)))
    save_pairs(tmp_path / "real", 3, "test")
    names.append(name_of(config))
    assert len(set(names)) == len(names), "the last has one shard more"


def test_a_training_sees_each_pair_of_the_first_set_so_many_times(config):
    recipe = training_of(config, "both").optimisation
    assert (recipe.num_examples, recipe.num_steps) == (30, 8)
    assert training_of(changed(config, epochs=0.1)).optimisation.num_examples == 4, "one batch at least"
    assert training_of(changed(config, steps=9)).optimisation.num_steps == 9


def blanked(folder, target) -> str:
    """The pairs of a set, with masks of unknown pixels alone."""
    rows = read_shards([folder])
    blank = encode_mask(np.full((32, 32), GARMENTS.ignore_index, np.uint8))
    field = rows.schema.field("mask")
    masks = pc.make_struct(
        np.full(rows.num_rows, blank, object), np.full(rows.num_rows, None, object), field_names=["bytes", "path"]
    )
    write_table(rows.set_column(rows.schema.names.index("mask"), field, masks.cast(field.type)), f"{target}/shards")
    GARMENTS.save(target / "label_space.json")
    return str(target)


def test_pairs_without_known_pixels_are_refused_as_what_they_were_given(config, tmp_path):
    blank = blanked(config.test, tmp_path / "blank")
    with pytest.raises(DataError, match=f"{blank}: no pixel of the held-out masks has a known class.*as `test`"):
        evaluate(changed(config, test=blank))
    with pytest.raises(ConfigError, match=f"{blank}: no pixel of the 8 judged masks has a known class"):
        evaluate(changed(config, judged=blank))


def test_sets_of_other_classes_are_refused_before_anything_is_trained(config, tmp_path):
    (tmp_path / "more" / "label_space.json").unlink()
    with pytest.raises(DataError, match="label_space.json: missing"):
        evaluate(config)
    assert not [one for one in config.folder.iterdir() if one.is_dir()]


def test_masks_that_people_drew_are_never_drawn_anew(config):
    real = config.sets["real"].train
    asked = changed(config, sets={"real": TrainingSet(train=real), "again": TrainingSet(train=real, relabel="held")})
    with pytest.raises(ConfigError, match="sets.again.relabel: people drew all masks of this set"):
        evaluate(asked)
    assert not [one for one in config.folder.iterdir() if one.is_dir()]
