"""How masks are seen that pictures are made for, and the rows that follow from a plan."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from models.labels import GARMENTS, LabelSpace
from pipeline.pictures.codec import encode_mask
from pipeline.stages.mask_views import MaskViews, seen_masks
from pipeline.tables.conform import object_column

OTHER = LabelSpace.named("ade20k")
PLAIN = MaskViews(flip=False)


def block(size: int = 16, at: int = 4, side: int = 6, class_id: int = 3) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[at : at + side, at : at + side] = class_id
    return mask


def test_without_any_change_a_mask_is_as_it_was_and_its_middle_is_seen():
    assert np.array_equal(PLAIN.mask(block(), 1, 16, GARMENTS), block())
    wide = np.concatenate([np.full((16, 8), 5, np.uint8), block(), np.full((16, 8), 5, np.uint8)], axis=1)
    assert np.array_equal(PLAIN.mask(wide, 1, 16, GARMENTS), block())
    assert np.array_equal(PLAIN.mask(block(), 1, 32, GARMENTS), block().repeat(2, 0).repeat(2, 1))


def test_half_are_mirrored_with_their_prompts_by_their_seeds():
    views, mask = MaskViews(), block(at=1)
    flipped = [views.flips(seed) for seed in range(200)]
    assert 70 < sum(flipped) < 130 and flipped == [views.flips(seed) for seed in range(200)]
    for seed in range(10):
        seen, prompt = views.mask(mask, seed, 16, GARMENTS), views.prompt("a bag left of a boot", seed)
        assert np.array_equal(seen, mask[:, ::-1] if flipped[seed] else mask)
        assert prompt == ("a bag right of a boot" if flipped[seed] else "a bag left of a boot")
    with pytest.raises(ValueError, match="leftmost"):
        [views.prompt("the leftmost bag", seed) for seed in range(10)]
    assert [PLAIN.prompt("the leftmost bag", seed) for seed in range(10)] == ["the leftmost bag"] * 10


def test_things_are_seen_larger_and_smaller_by_as_much_as_was_asked():
    mask = block(size=64, at=24, side=16)
    for scale, area in ((0.5, 8 * 8), (2.0, 32 * 32), (1.0, 16 * 16)):
        seen = MaskViews(flip=False, scale=(scale, scale)).mask(mask, 3, 64, GARMENTS)
        assert np.count_nonzero(seen) == area
    areas = [
        np.count_nonzero(MaskViews(flip=False, scale=(0.5, 2.0)).mask(mask, seed, 64, GARMENTS)) for seed in range(40)
    ]
    assert min(areas) < 100 and max(areas) > 700, "drawn for each picture"


def test_they_are_moved_and_what_lies_beyond_the_edge_is_background_or_unknown():
    mask = np.full((64, 64), 1, np.uint8)
    seen = [MaskViews(flip=False, shift=0.25).mask(mask, seed, 64, GARMENTS) for seed in range(20)]
    rows = [int((one[:, 32] == 0).sum()) for one in seen]
    assert max(rows) <= 16 and len(set(rows)) > 3
    assert {int(one[0, 0]) for one in seen} == {0, 1}
    void = [MaskViews(flip=False, shift=0.25).mask(mask, seed, 64, OTHER) for seed in range(20)]
    assert {*np.unique(void)} == {1, OTHER.ignore_index}, "ADE20K has no background"


def test_a_view_that_loses_a_class_is_not_taken():
    mask = block(size=64, at=0, side=3)
    mask[40:60, 40:60] = 5
    for seed in range(30):
        seen = MaskViews(flip=False, shift=0.5).mask(mask, seed, 64, GARMENTS)
        assert {3, 5} <= {*np.unique(seen)}
    mask[mask == 3] = GARMENTS.ignore_index  # unknown pixels may go
    lost = [MaskViews(flip=False, shift=0.3).mask(mask, seed, 64, GARMENTS) for seed in range(30)]
    assert any(GARMENTS.ignore_index not in one for one in lost)


def test_rows_follow_from_the_plan_and_a_broken_mask_is_an_error_of_its_pictures():
    batch = {
        "pair_id": object_column(["a", "b", "c"]),
        "mask": object_column([encode_mask(block()), {"bytes": b"broken", "path": None}, encode_mask(block())]),
    }
    pictures = {"a": [("a1", "one", 1), ("a2", "two", 2)], "b": [("b1", "three", 3)]}
    rows = seen_masks(batch, pictures, PLAIN, 16, GARMENTS)
    assert rows["pair_id"].tolist() == ["a1", "a2", "b1"] and rows["prompt"].tolist() == ["one", "two", "three"]
    assert rows["error"].tolist() == ["", "", "undecodable_input"] and rows["error_detail"][2]
    assert np.array_equal(rows["mask"][1], block()) and not rows["mask"][2].any()
    assert seen_masks(batch, {}, PLAIN, 16, GARMENTS)["mask"].shape == (0, 16, 16)


@pytest.mark.parametrize("values", [{"scale": (0, 1)}, {"scale": (2, 1)}, {"shift": 2}])
def test_views_that_cannot_be_are_refused(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        MaskViews(**values)
