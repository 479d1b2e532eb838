"""What stands behind pairs: the labels that their teachers learned from, and what must not be judged on for it."""

from __future__ import annotations

import pyarrow as pa
import pytest
import yaml
from pydantic import ValidationError

from models.labels import GARMENTS, VOC
from pipeline.base.errors import ConfigError, DataError
from pipeline.evaluate import EvaluateConfig, begin
from pipeline.tables.conform import conform
from pipeline.tables.ids import labelled_pair_id
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import write_table
from pipeline.training.order import ids_of
from pipeline.training.sets import Labels, behind
from tests.tiny import save_pairs


@pytest.fixture
def place(tmp_path):
    """Ten real pairs, six of another split, and labels that a teacher gave three of the pictures."""
    save_pairs(tmp_path / "real", 10)
    save_pairs(tmp_path / "others", 6, "validation")
    rows = read_shards([str(save_pairs(tmp_path / "bare", 3))])
    ids = [labelled_pair_id(one, "{}") for one in rows["pair_id"].to_pylist()]
    made = rows.set_column(0, "pair_id", pa.array(ids)).drop_columns(["origin"])
    write_table(conform(made.append_column("origin", pa.array(["labelled"] * 3)), PAIR), f"{tmp_path}/labels/shards")
    GARMENTS.save(tmp_path / "labels" / "label_space.json")
    return tmp_path


def evaluated(place, **changes) -> EvaluateConfig:
    values = {"run": "proof", "runs": str(place / "runs"), "sets": {"real": [f"{place}/real"]}, "width": 4}
    return EvaluateConfig.model_validate({**values, "test": f"{place}/others", **changes})


def begun_with(folder, **values) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return str(folder)


@pytest.mark.parametrize(
    ("teacher", "counted"),
    [
        ({}, True),
        ({"segmenter": "segformer_b0", "steps": 9}, True),
        ({"segmenter": "segformer_b0", "pretrained": "/backbone"}, False),
        ({"segmenter": "joint", "pretrained": "/bundle"}, False),
        ({"weights": "/nowhere/weights"}, False),
    ],
)
def test_what_a_teacher_learned_from_is_known_whatever_it_is_and_counted_where_that_is_all(place, teacher, counted):
    real, bare = str(place / "real"), str(place / "bare")
    folder = begun_with(place / "labels", job="label", pairs=bare, labelled=[real], slices=["0:4"], teacher=teacher)

    found = Labels.of(folder)

    assert found.ids == set(ids_of(real, "0:4")) and found.count() == (4 if counted else None)


def test_what_given_weights_learned_from_is_known_where_it_lies_beside_them(place):
    real, others, bare = (str(place / name) for name in ("real", "others", "bare"))
    weights = begun_with(place / "training", train=[others, f"{place}/gone"], slices=["0:2", ":"]) + "/weights"
    own = {"labelled": [real], "rounds": 1, "teacher": {"weights": weights}}

    by_keys = Labels.of(begun_with(place / "labels", job="label", pairs=bare, **own))
    of_a_proof = Labels.of(begun_with(place / "labels", job="label", pairs=bare, teacher=weights, voters=[weights]))

    assert behind(weights) == ([(others, "0:2")], [f"{place}/gone"]) and behind(f"{place}/bare") == ([], [])
    assert by_keys.ids == {*ids_of(real), *ids_of(others, "0:2")}
    assert of_a_proof.ids == set(ids_of(others, "0:2")) and by_keys.count() is of_a_proof.count() is None


def test_pairs_that_labels_were_chosen_on_are_not_tested_on_though_more_may_be_chosen_on_them(place):
    real, others, bare, made = (str(place / name) for name in ("real", "others", "bare", "labels"))
    begun_with(place / "labels", job="label", pairs=bare, labelled=[real], validation=others)
    sets = {"real": [real], "labels": [real, made]}

    with pytest.raises(ConfigError, match="test and what labels in sets.labels were chosen on share 6 pairs"):
        evaluated(place, sets=sets).check_inputs()
    other = str(save_pairs(place / "other", 4, "test"))
    evaluated(place, sets=sets, test=other, validation=others, try_steps=[4]).check_inputs()
    begun_with(place / "labels", job="label", pairs=bare, labelled=[real], validation=f"{place}/gone")
    evaluated(place, sets=sets).check_inputs()


def test_of_what_a_generator_learned_from_its_slices_count(place):
    half = {"test": f"{place}/real", "sets": {"real": [f"{place}/others"]}, "generator_train": [f"{place}/real"]}
    with pytest.raises(ConfigError, match=r"test and generator_train \(.*/real\) share 4 pairs"):
        evaluated(place, **half, generator_slices=["0:4"]).check_inputs()


@pytest.mark.parametrize("key", ["validation", "judged"])
def test_pairs_of_other_classes_are_refused_whatever_they_are_for(place, key):
    other = str(save_pairs(place / "other", 4, "test"))
    VOC.save(place / "other" / "label_space.json")
    config = evaluated(place, **{key: other}, **({"try_steps": [4]} if key == "validation" else {}))
    with pytest.raises(DataError, match="other has the classes of .* cannot be used together"):
        config.check_inputs()
    with pytest.raises(DataError, match="other has the classes of .* cannot be used together"):
        begin(config, None, [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ({"real": {"train": ["a"], "after": "self"}, "self": {"train": ["b"], "masks": ["free"]}}, "real, self: the"),
        (
            {
                "real": ["a"],
                "one": {"train": ["a"], "after": "two"},
                "two": {"train": ["b"], "masks": ["held"], "teacher": "one"},
            },
            "one, two: the segmenters of these sets label pictures that they build on themselves",
        ),
    ],
)
def test_sets_that_wait_for_each_other_are_refused(sets, told):
    with pytest.raises(ValidationError, match=told):
        EvaluateConfig(run="proof", sets=sets, test="t")


def test_lengths_without_a_step_are_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        EvaluateConfig.model_validate(
            {"run": "proof", "sets": {"real": ["a"]}, "test": "t", "validation": "v", "try_steps": [0]}
        )
