"""How far a figure would move with other test pictures."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.metrics import confusion_matrix, mean_iou
from pipeline.evaluation.results import Difference, HeldOut, Proof, TrainedSet
from pipeline.evaluation.spread import (
    MOST_UNITS,
    by_unit,
    cells,
    drawn_miou,
    from_bytes,
    interval,
    least_gains,
    to_bytes,
)

IGNORED = 255


def masks(num: int, wrong: float, seed: int = 0):
    numbers = np.random.default_rng(seed)
    truth = numbers.choice([0, 1, 2, IGNORED], (num, 8, 8)).astype(np.uint8)
    seen = np.where(numbers.random(truth.shape) < wrong, numbers.integers(0, 3, truth.shape), truth % 3)
    return truth, seen


def test_what_is_kept_of_each_picture_gives_the_confusion_of_all():
    truth, seen = masks(9, 0.3)
    kept = from_bytes(to_bytes(cells(truth, seen, 3, IGNORED)))
    units = by_unit(kept, list("aabbbccca"), 3)
    assert units.sum(0).tolist() == confusion_matrix(truth, seen, 3, IGNORED).tolist()
    assert units[0].tolist() == confusion_matrix(truth[[0, 1, 8]], seen[[0, 1, 8]], 3, IGNORED).tolist()


def test_many_units_are_drawn_together():
    truth, seen = masks(2 * MOST_UNITS, 0.3)
    kept = cells(truth, seen, 3, IGNORED)
    units = by_unit(kept, [str(one) for one in range(2 * MOST_UNITS)], 3)
    assert len(units) == MOST_UNITS and units.sum(0).tolist() == confusion_matrix(truth, seen, 3, IGNORED).tolist()


def test_the_interval_holds_the_figure_and_is_wider_over_few_units_that_differ():
    truth, seen = masks(60, 0.5)
    seen[:20] = truth[:20] % 3  # pictures of one photograph are alike: right
    kept = cells(truth, seen, 3, IGNORED)
    figure = mean_iou(confusion_matrix(truth, seen, 3, IGNORED))
    widths = []
    for units in ([str(one) for one in range(60)], [str(one // 20) for one in range(60)]):
        low, high = interval(drawn_miou(by_unit(kept, units, 3)))
        assert low < figure < high
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]


def test_draws_without_a_known_pixel_say_nothing_and_the_proof_can_be_read_back():
    confusions = np.zeros((2, 3, 4), np.int64)
    confusions[0, :, :3] = np.eye(3) * 4 + 1
    draws = drawn_miou(confusions)
    assert np.isnan(draws).any(), "the second unit twice"
    found = interval(draws)
    assert found == pytest.approx((5 / 9, 5 / 9))
    row = TrainedSet(name="real", pairs=2, steps=1, miou=[0.5], iou={}, interval=found)
    proof = Proof(test=HeldOut(folder="test", pairs=2), seeds=[0], classes=[], sets=[row])
    assert Proof.model_validate_json(proof.model_dump_json()) == proof


def test_equal_seeds_draw_equal_units_so_that_two_networks_can_be_compared():
    truth, seen = masks(40, 0.5)
    better = np.where(np.random.default_rng(1).random(truth.shape) < 0.1, truth % 3, seen)
    units = [str(one // 4) for one in range(40)]
    one, other = (drawn_miou(by_unit(cells(truth, each, 3, IGNORED), units, 3)) for each in (better, seen))
    apart = interval(one - other)
    assert apart[0] > 0, "better in every draw, though the intervals of the two overlap"
    assert interval(one)[0] < interval(other)[1]
    assert drawn_miou(by_unit(cells(truth, seen, 3, IGNORED), units, 3)).tolist() == pytest.approx(other.tolist())


def differences(numbers, ways, seeds, by_unit, by_seed, of_baseline):
    """Of ways that gain nothing, tested on units and trained with seeds that are drawn; all are compared with the same
    trainings of the baseline."""
    baseline = numbers.normal(0, of_baseline, seeds)
    return [
        Difference(
            miou=(numbers.normal(0, by_unit) + numbers.normal(0, by_seed, seeds) - baseline).tolist(),
            unit_error=by_unit,
        )
        for _ in range(ways)
    ]


@pytest.mark.parametrize(("ways", "seeds"), [(1, 3), (6, 3), (6, 5)])
@pytest.mark.parametrize(
    ("by_unit", "by_seed", "of_baseline"),
    [(0.006, 0.013, 0.013), (0.015, 0.013, 0.013), (0.015, 0.003, 0.003), (0.001, 0.005, 0.012), (0.001, 0.002, 0.01)],
)
def test_of_ways_that_gain_nothing_hardly_any_is_said_to(ways, seeds, by_unit, by_seed, of_baseline):
    numbers = np.random.default_rng(0)
    drawn = [least_gains(differences(numbers, ways, seeds, by_unit, by_seed, of_baseline), 50) for _ in range(2000)]
    assert np.mean([max(one) > 0 for one in drawn]) < 0.04, "2.5 %, more where the baseline is all that differs"


def test_a_gain_that_stands_out_is_seen():
    gains = [
        Difference(miou=[0.05, 0.06, 0.07], unit_error=0.008),
        Difference(miou=[0.0, 0.01, 0.02], unit_error=0.008),
    ]
    low, none = least_gains(gains, 50)
    assert 0.02 < low < 0.06 and none < 0
    assert least_gains(gains[:1], 50)[0] != low, "ways that were tried too count"
    assert least_gains(gains, 4)[0] < low, "few units say little"
    with pytest.raises(ValueError, match="one seed"):
        least_gains([Difference(miou=[0.1], unit_error=0.01)], 50)


def test_on_one_unit_no_gain_is_shown():
    alike = Difference(miou=[0.05, 0.051, 0.049], unit_error=0.0)  # each draw of one unit is that unit
    assert least_gains([alike], 1) == [-np.inf] and least_gains([alike] * 3, 0) == [-np.inf] * 3
