from __future__ import annotations

import pytest

from pipeline.prompts.mirror import mirrored_prompt

SIDES = {"left": "right"}


@pytest.mark.parametrize(
    ("prompt", "mirrored"),
    [
        ("a red bag left of a blue shirt on the right", "a red bag right of a blue shirt on the left"),
        ("Left, RIGHT-hand and left_1", "Right, LEFT-hand and right_1"),
        ("a dress above a boot", "a dress above a boot"),
        ("", ""),
    ],
)
def test_sides_change_and_nothing_else(prompt, mirrored):
    assert mirrored_prompt(prompt, SIDES) == mirrored
    assert mirrored_prompt(mirrored, SIDES) == prompt


def test_words_that_say_no_side_stay():
    text = "A bright, upright piano; Brightly lit leftovers, the playwright's rights, copyrighted, a cleft: all right"
    assert mirrored_prompt(text, SIDES) == text[: -len("right")] + "left"
    for word in ("rightside", "topright", "rightwards", "lefthand"):
        with pytest.raises(ValueError, match=f"'{word}' holds"):
            mirrored_prompt(f"a {word} bag", SIDES)
    assert mirrored_prompt("lefty, left", {**SIDES, "lefty": "lefty"}) == "lefty, right"


def test_a_word_that_nobody_named_is_refused():
    with pytest.raises(ValueError, match="'leftmost' holds 'left'"):
        mirrored_prompt("the leftmost bag", SIDES)
    assert mirrored_prompt("the leftmost bag", {**SIDES, "leftmost": "rightmost"}) == "the rightmost bag"
