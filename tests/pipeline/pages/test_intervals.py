"""Rows of a proof on one axis, and how sure each is."""

from __future__ import annotations

import pytest

from pipeline.pages.intervals import intervals
from tests.pipeline.pages.test_proof_table import LONGER, MIXED, proof, trained


def test_rows_of_equal_steps_lie_on_one_axis_with_their_spread():
    found = intervals(proof(MIXED, LONGER))

    assert found is not None and [one.name for one in found.marks] == ["real", "both"]
    real, both = found.marks
    assert (real.text, both.text) == ("51.0", "53.5") and real.place < both.place
    assert real.drawn is not None and real.drawn[0] < real.place < sum(real.drawn)
    assert real.seeds is not None and real.seeds[0] + real.seeds[1] / 2 == pytest.approx(real.place)
    assert both.drawn is None and all(0 <= place <= 100 for place, _ in found.ticks)
    assert found.has_drawn and found.has_seeds and found.ticks[0][1] == "44"


def test_one_seed_has_no_spread_and_one_row_is_not_compared():
    found = intervals(proof(trained("one", [0.4])))
    assert found is not None and found.marks[1].seeds is None
    assert intervals(proof(LONGER)) is None
