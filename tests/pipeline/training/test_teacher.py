"""Which network labels in the first round."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.labels import GARMENTS
from pipeline.training.sets import TrainingSet
from pipeline.training.teacher import TeacherKeys
from pipeline.training.terms import SegmenterKeys

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
