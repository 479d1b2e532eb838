"""proof.json comes back as it was written, and those of older releases are read."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from pipeline.evaluation.results import Agreement, HeldOut, Proof, TrainedSet

PROOF = Proof(
    test=HeldOut(folder="runs/test", pairs=16),
    seeds=[0, 1],
    classes=["background", "cat"],
    sets=[
        TrainedSet(
            name="real",
            folders=["runs/real"],
            pairs=10,
            steps=5,
            miou=[0.5, 0.25],
            iou={"background": [0.5, 0.25], "cat": [None, 0.125]},
        )
    ],
    agreement=Agreement(judge="real", on="runs/synthetic", miou=0.75, pixel_accuracy=0.875),
    prompt_match={"runs/synthetic": 0.5},
)


def test_a_class_that_does_not_occur_is_null_and_comes_back():
    text = PROOF.model_dump_json()
    assert json.loads(text)["sets"][0]["iou"]["cat"] == [None, 0.125]
    assert Proof.model_validate_json(text) == PROOF


def test_a_file_of_an_older_release_is_read():
    """It has no folders, no agreement and no match of prompts."""
    content = PROOF.model_dump()
    for name in ("agreement", "prompt_match"):
        del content[name]
    del content["sets"][0]["folders"]
    found = Proof.model_validate_json(json.dumps(content))
    assert (found.sets[0].folders, found.agreement, found.prompt_match) == ([], None, {})
    assert found.sets[0].miou == PROOF.sets[0].miou


@pytest.mark.parametrize("emptied", ["sets", "miou"])
def test_a_proof_of_nothing_is_none(emptied):
    content = PROOF.model_dump()
    (content if emptied == "sets" else content["sets"][0])[emptied] = []
    with pytest.raises(ValidationError, match="at least 1 item"):
        Proof.model_validate(content)
