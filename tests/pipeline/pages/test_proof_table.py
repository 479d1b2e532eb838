"""The table of a proof compares what may be compared, and its curves show spread."""

from __future__ import annotations

import re

import pytest

from pipeline.evaluation.results import Choice, Difference, HeldOut, Proof, TrainedSet
from pipeline.pages.proof_table import charts_of, markdown, rows_of


def trained(name: str, miou: list[float], **facts) -> TrainedSet:
    values = {"pairs": 512, "steps": 1000, "labels": 512, "iou": {"background": [0.9, None], "bag": [None, None]}}
    return TrainedSet.model_validate({"name": name, "miou": miou, **values, **facts})


REAL = trained("real", [0.50, 0.52], interval=(0.45, 0.55), seconds=[60, 120], boundary_iou=[0.3, 0.4])
MIXED = trained(
    "both",
    [0.53, 0.54],
    pairs=1024,
    difference=Difference(miou=[0.03, 0.02], interval=(-0.01, 0.06)),
    unlabelled=100,
    labels=None,
)
LONGER = trained("longer", [0.6, 0.6], steps=2000, difference=Difference(miou=[0.1, 0.08]))


def proof(*sets: TrainedSet, **changes) -> Proof:
    test = HeldOut(folder="runs/test", pairs=1024, units=21, unit="photographs")
    return Proof(test=test, seeds=[0, 1], classes=["background", "bag"], sets=[REAL, *sets], **changes)


def cells(text: str) -> dict[str, list[str]]:
    lines = [line.removeprefix("|").removesuffix("|").split("|") for line in text.splitlines() if line[:1] == "|"]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def test_differences_are_of_equal_seeds_and_none_is_told_where_steps_differ():
    real, mixed, longer = rows_of(proof(MIXED, LONGER))
    assert real.difference is None and real.ratio == 1
    assert mixed.difference == pytest.approx((0.025, 0.01 / 2**0.5)) and mixed.ratio == pytest.approx(0.535 / 0.51)
    assert longer.ratio is None and longer.difference is None
    assert real.ious == [0.9, None]


def test_the_table_says_labels_spread_and_what_the_brackets_are():
    text = markdown(proof(MIXED, LONGER))
    found = cells(text)
    assert found["real"][:6] == ["512", "", "512", "1,000", "0.5100 ± 0.0141 [0.450, 0.550]", "1.000"]
    assert found["real"][6:] == ["", "", "0.3500", "1.5"]
    assert found["both"][0] == "?" and found["both"][1] == "100"
    assert found["both"][6] == "+0.0250 ± 0.0071 [-0.010, +0.060]"
    assert found["both"][7].startswith("-"), "two seeds show no gain of 2.5 points"
    assert found["longer"][5:8] == ["other steps", "", ""]
    assert "where it is below zero, no gain is shown" in text
    assert "1,024 real held-out pairs of 21 photographs" in text and "over 2 seeds" in text
    assert "the photographs of the test are drawn anew" in text
    assert len({len(row) for row in found.values()}) == 1, "each row has all columns"


def test_several_scales_have_a_column_where_they_were_asked_for():
    one = REAL.model_copy(update={"miou_multi_scale": [0.6, 0.7]})
    text = markdown(proof().model_copy(update={"sets": [one]}))
    assert cells(text)["real"][9] == "0.6500" and "several scales" in text
    assert "several scales" not in markdown(proof())


def test_a_gain_is_shown_where_other_seeds_and_pictures_would_show_it_too():
    sure = Difference(miou=[0.03, 0.031, 0.029], unit_error=0.003)
    row = trained("sure", [0.53, 0.55, 0.54], steps=1000, difference=sure)
    (_, found) = rows_of(proof(row))
    assert found.least == pytest.approx(0.0233, abs=5e-4)
    assert cells(markdown(proof(row)))["sure"][7] == f"{found.least:+.4f}"
    alone = row.model_copy(update={"miou": [0.53], "difference": Difference(miou=[0.03], unit_error=0.003)})
    assert rows_of(proof(alone))[1].least is None, "one seed says nothing of others"


def test_what_was_tried_twice_counts_once():
    choices = [Choice(steps=500, learning_rate=0.003, miou=[0.4]), Choice(steps=1000, learning_rate=0.003, miou=[0.5])]
    again = [choices[1], choices[1].model_copy(update={"augmentation": "mild"})]
    assert "from 3 tries of 1 seed each" in markdown(proof(choices=[*choices, *again]))


def test_a_baseline_that_may_still_rise_is_said_to():
    choices = [Choice(steps=500, learning_rate=0.003, miou=[0.4]), Choice(steps=1000, learning_rate=0.003, miou=[0.5])]
    text = markdown(proof(choices=choices, warnings=["“real” may not have stopped rising"]))
    assert "**Mind:** “real” may not have stopped rising." in text
    assert "from 2 tries of 1 seed each; the best reached 0.5000 with 1,000 steps" in text


def test_the_augmentation_that_was_chosen_is_told_and_drawn_apart():
    choices = [Choice(steps=steps, learning_rate=0.003, miou=[miou]) for steps, miou in ((500, 0.4), (1000, 0.5))]
    mild = Choice(steps=1000, learning_rate=0.003, augmentation="mild", miou=[0.6])
    chosen = proof(choices=[*choices, mild])
    assert "Steps, learning rate and augmentation were chosen" in markdown(chosen)
    assert "from 3 tries of 1 seed each; the best reached 0.6000 with 1,000 steps, mild augmentation" in markdown(
        chosen
    )
    assert "Steps and learning rate were chosen" in markdown(proof(choices=choices))
    assert charts_of(chosen) == charts_of(proof(choices=choices))


def test_one_seed_has_no_spread():
    one = [trained("real", [0.5]), trained("both", [0.6], difference=Difference(miou=[0.1]))]
    text = markdown(proof().model_copy(update={"sets": one, "seeds": [0]}))
    assert "±" not in text and "+0.1000" in text


def test_curves_are_over_steps_that_were_tried_and_pairs_of_the_same_folders():
    choices = [
        Choice(steps=steps, learning_rate=rate, miou=[miou])
        for steps, rate, miou in ((1000, 0.003, 0.5), (500, 0.003, 0.4), (500, 0.001, 0.3), (1000, 0.001, 0.45))
    ]
    more = [trained(f"synthetic {n}", [0.3 + n / 100, 0.34 + n / 100], pairs=512 * n, folders=["a"]) for n in (4, 1, 2)]
    steps, pairs = charts_of(proof(MIXED, *more, choices=choices))
    assert [line.name for line in steps.lines] == ["rate 0.003", "rate 0.001"] and not steps.lines[0].band
    (line,) = pairs.lines
    assert line.name == "synthetic 1" and line.band.endswith(" Z")
    places = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", line.path)]
    band = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", line.band)]
    assert [x for x, _ in places] == sorted(x for x, _ in places) and len(places) == 3
    above, below = band[:3], band[:2:-1]
    assert all(high[1] < middle[1] < low[1] for high, middle, low in zip(above, places, below, strict=True))
    assert charts_of(proof(MIXED)) == [], "one point is no curve"
    other = [one.model_copy(update={"trained_on": {"augmentation": str(n)}}) for n, one in enumerate(more)]
    assert charts_of(proof(*other)) == [], "they differ in more than their pairs"


def test_rare_classes_have_a_column_where_they_are_named():
    seen = trained("seen", [0.5, 0.6], iou={"background": [0.9, 0.8], "bag": [0.2, 0.4]})
    found = cells(markdown(proof(seen, rare=["bag"])))
    assert found["trained on"][-2] == "bag" and found["seen"][-2].startswith("0.3000 ± 0.1414")
    assert "bag" not in cells(markdown(proof(seen)))["trained on"]
