"""Prompts by what a segmenter fails at."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.labels import GARMENTS, VOC
from pipeline.base.errors import DataError
from pipeline.prompts.hardness import by_hardness, failing

BAG, BOOT, COAT = (GARMENTS.classes.index(name) for name in ("bag", "boot", "coat"))


@pytest.fixture
def proof(tmp_path):
    iou = {name: [0.8, 0.6] for name in GARMENTS.classes} | {"bag": [0.2, None], "boot": [None, None]}
    sets = [{"name": "real", "iou": iou}, {"name": "other", "iou": {**iou, "bag": [0.9, 0.9]}}]
    (tmp_path / "proof.json").write_text(json.dumps({"classes": GARMENTS.classes, "sets": sets}))
    return tmp_path


def test_how_much_a_row_fails_at_each_class_is_its_mean_over_seeds(proof):
    fails = failing(str(proof), "", GARMENTS)
    assert fails[BAG] == pytest.approx(0.8) and fails[COAT] == pytest.approx(0.3)
    assert 0 not in fails and BOOT not in fails, "the background is asked for by nobody, boots are not in the test"
    assert failing(str(proof), "other", GARMENTS)[BAG] == pytest.approx(0.1)


def test_hard_prompts_come_more_often_by_rank():
    fails = {BAG: 0.9, BOOT: 0.5, COAT: 0.1}
    factors = by_hardness([[COAT], [BAG, COAT], [BAG], [BOOT], None, []], fails, 4)
    assert factors[0] == 1 and factors[2] == 4
    assert factors[1] == factors[3] == factors[4] == factors[5], "0.5 on average, and what is not known, in the middle"
    assert 1 < factors[1] < 4
    assert by_hardness([[BAG]], fails, 4).tolist() == [1]
    assert np.array_equal(by_hardness([[BAG], [COAT]], fails, 1), [1, 1])


def test_what_is_no_proof_or_of_other_classes_is_told(proof, tmp_path):
    with pytest.raises(DataError, match=r"no row 'rael'; there are real, other"):
        failing(str(proof), "rael", GARMENTS)
    with pytest.raises(DataError, match="its classes are background, shirt"):
        failing(str(proof), "", VOC)
    with pytest.raises(DataError, match=r"nowhere: no proof\.json; jobs\.evaluate makes it"):
        failing(str(tmp_path / "nowhere"), "", GARMENTS)
    for broken in ("{", "{}", '{"sets": [], "classes": 3}'):
        (proof / "proof.json").write_text(broken)
        with pytest.raises(DataError, match="not what jobs.evaluate writes"):
            failing(str(proof), "", GARMENTS)
