"""Which network labels in the first round."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pydantic import ValidationError

from models.labels import GARMENTS
from pipeline.base.errors import ConfigError
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import write_table
from pipeline.training.sets import TrainingSet
from pipeline.training.teacher import TeacherKeys, judges_of, weights_digest
from pipeline.training.terms import SegmenterKeys
from tests.tiny import save_pairs

FIRST = TrainingSet(train=("/nowhere",))
KEYS = SegmenterKeys(run="a", steps=40, batch_size=8, learning_rate=0.01)


def test_it_is_the_segmenter_itself_unless_another_is_named():
    assert TeacherKeys().made(KEYS, GARMENTS, FIRST) is None and TeacherKeys().is_trained


def test_another_network_has_its_own_recipe_and_as_many_steps_unless_told():
    teacher = TeacherKeys(segmenter="segformer_tiny").made(KEYS, GARMENTS, FIRST)
    assert teacher is not None and teacher.task.segmenter == "segformer_tiny"
    recipe = teacher.terms.optimisation()
    assert (recipe.num_steps, recipe.batch_size, recipe.learning_rate) == (40, 16, 6e-5)
    teacher = TeacherKeys(segmenter="segformer_tiny", steps=7).made(KEYS, GARMENTS, FIRST)
    assert teacher is not None and teacher.terms.optimisation().num_steps == 7


def test_weights_of_an_earlier_training_are_not_trained():
    keys = TeacherKeys(weights="/somewhere")
    teacher = keys.made(KEYS, GARMENTS, FIRST)
    assert teacher is not None and teacher.weights == "/somewhere" and teacher.task.segmenter == "unet_small"
    assert not keys.is_trained and not TeacherKeys(segmenter="joint", pretrained="/bundle").is_trained


def test_what_it_begins_with_is_looked_at_before_anything_is_trained(tmp_path):
    keys = TeacherKeys(segmenter="segformer_tiny", pretrained=str(tmp_path / "none.pth"))
    with pytest.raises(ConfigError, match=r"pretrained of segformer_tiny: .*none\.pth: no such file of weights"):
        keys.made(KEYS, GARMENTS, FIRST)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"steps": 4}, "belong to its segmenter"),
        ({"pretrained": "/bundle"}, "belong to its segmenter"),
        ({"segmenter": "joint_head"}, "segmenter joint_head needs the folder of a bundle"),
        ({"segmenter": "joint"}, "segmenter joint needs the folder of a bundle"),
        ({"segmenter": "unet_small", "pretrained": "/x"}, "has no pre-trained weights"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, told):
    with pytest.raises(ValidationError, match=told):
        TeacherKeys(**keys)


def test_a_student_that_is_never_trained_is_refused():
    with pytest.raises(ValidationError, match="joint is trained by train_joint alone"):
        SegmenterKeys(run="a", segmenter="joint", pretrained="/bundle")


def test_a_judge_that_learned_from_generated_pairs_is_refused(tmp_path, caplog):
    task, terms = KEYS.task(GARMENTS), KEYS.terms(FIRST)
    task.save(task.build(), {}, tmp_path / "weights")
    weights = str(tmp_path / "weights")
    (found,) = judges_of([weights], task, terms, "judge_weights")
    assert found == (weights, weights_digest(weights)) and "nothing beside" in caplog.text
    real = save_pairs(tmp_path / "real", 4)
    made = read_shards([str(real)])
    place = made.schema.get_field_index("origin")
    write_table(made.set_column(place, "origin", pa.array(["synthetic"] * 4)), f"{tmp_path}/made/shards")
    (tmp_path / "config.yaml").write_text(f"train: [{real}, {tmp_path}/gone]\n")
    assert judges_of([weights], task, terms, "judge_weights") == (found,)
    assert f"learned from {tmp_path}/gone, which is not at hand" in caplog.text
    for folder in (real, tmp_path / "made"):
        (tmp_path / "config.yaml").write_text(f"train: [{real}, {folder}]\n")
        if folder == real:
            assert judges_of([weights], task, terms, "judge_weights") == (found,)
        else:
            with pytest.raises(ConfigError, match=f"judge_weights: {weights} learned from generated pairs .*/made"):
                judges_of([weights], task, terms, "judge_weights")
