"""Mask refinement: equal to the reference's golden files and to a tiny oracle written from the rules."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.stages.refine import refine_mask, refine_masks

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = json.loads((GOLDEN / "mask_optimization_cases.json").read_text())
NO_IGNORE = -1
STRAIGHT = ((-1, 0), (0, -1), (0, 1), (1, 0))
AROUND = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))

Pixel = tuple[int, int]


def neighbours(pixels: set[Pixel], steps: tuple[Pixel, ...], shape: tuple[int, ...]) -> set[Pixel]:
    near = {(row + down, column + right) for row, column in pixels for down, right in steps} - pixels
    return {(row, column) for row, column in near if 0 <= row < shape[0] and 0 <= column < shape[1]}


def components(mask: np.ndarray, class_id: int) -> list[set[Pixel]]:
    """4-connected, in raster order of the first pixel."""
    left = [(int(row), int(column)) for row, column in np.argwhere(mask == class_id)]
    found: list[set[Pixel]] = []
    while left:
        component = {left[0]}
        while grown := {pixel for pixel in neighbours(component, STRAIGHT, mask.shape) if mask[pixel] == class_id}:
            component |= grown
        left = [pixel for pixel in left if pixel not in component]
        found.append(component)
    return found


def oracle(mask: np.ndarray, min_area_px: int, ignore_index: int = NO_IGNORE, fill_holes_px: int = 0) -> np.ndarray:
    """The rules, pixel by pixel: slow, and nothing in common with the code under test."""
    mask = mask.copy()
    height, width = mask.shape

    def absorb(class_id: int, limit_px: int, *, at_border: bool) -> None:
        for component in components(mask, class_id):
            touches = any(row in (0, height - 1) or column in (0, width - 1) for row, column in component)
            ring = neighbours(component, AROUND, mask.shape)
            votes = Counter(int(mask[pixel]) for pixel in ring if mask[pixel] != ignore_index)
            if len(component) < limit_px and votes and (at_border or not touches):
                winner = min(votes, key=lambda value: (-votes[value], value))
                for pixel in component:
                    mask[pixel] = winner

    for class_id in np.unique(mask).tolist():
        if class_id not in (0, ignore_index):
            absorb(class_id, min_area_px, at_border=True)
    if ignore_index != 0:
        absorb(0, fill_holes_px, at_border=False)
    return mask


def grid(*rows: str) -> np.ndarray:
    return np.array([[int(value) for value in row] for row in rows], np.uint8)


def random_masks(number: int, *, seed: int, num_classes: int = 4, size: int = 12) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, num_classes, (number, size, size), dtype=np.uint8))


def test_golden_masks() -> None:
    with np.load(GOLDEN / "mask_optimization.npz") as golden:
        for index in range(int(golden["count"])):
            threshold = int(golden[f"threshold_{index}"])
            refined = refine_mask(golden[f"mask_{index}"], min_area_px=threshold, ignore_index=NO_IGNORE)
            np.testing.assert_array_equal(refined, golden[f"expected_{index}"], err_msg=f"mask {index}")


@pytest.mark.parametrize("name", CASES)
def test_golden_cases(name: str) -> None:
    mask = np.array(CASES[name]["inp"], np.uint8)
    # The reference crashes on an image without a ring; ours leaves the component as it is.
    expected = mask if name == "whole_image_below_tau" else np.array(CASES[name]["out"], np.uint8)
    refined = refine_mask(mask, min_area_px=CASES[name]["tau"], ignore_index=NO_IGNORE)
    np.testing.assert_array_equal(refined, expected)


@pytest.mark.parametrize("min_area_px", [1, 2, 3, 5, 9, 30, 200])
def test_equals_the_oracle_on_dense_noise(min_area_px: int) -> None:
    for mask in random_masks(60, seed=min_area_px):
        refined = refine_mask(mask, min_area_px=min_area_px, ignore_index=NO_IGNORE)
        np.testing.assert_array_equal(refined, oracle(mask, min_area_px))


@pytest.mark.parametrize("num_classes", [2, 3, 9])
@pytest.mark.parametrize("ignore_index", [NO_IGNORE, 0, 2])
def test_equals_the_oracle_with_ignored_pixels_and_holes(num_classes: int, ignore_index: int) -> None:
    for index, mask in enumerate(random_masks(30, seed=num_classes, num_classes=num_classes, size=10)):
        min_area_px, fill_holes_px = (0, 2, 4, 12)[index % 4], (0, 2, 6)[index % 3]
        refined = refine_mask(mask, min_area_px=min_area_px, ignore_index=ignore_index, fill_holes_px=fill_holes_px)
        np.testing.assert_array_equal(refined, oracle(mask, min_area_px, ignore_index, fill_holes_px))


def test_equals_the_oracle_where_specks_lie_in_regions() -> None:
    generator = np.random.default_rng(7)
    for _ in range(30):
        mask = np.kron(generator.integers(0, 5, (3, 3), dtype=np.uint8), np.ones((7, 7), np.uint8))
        specks = generator.random(mask.shape) < 0.1
        mask[specks] = generator.integers(0, 6, int(specks.sum()))
        np.testing.assert_array_equal(refine_mask(mask, min_area_px=8, ignore_index=NO_IGNORE), oracle(mask, 8))


def test_ignored_components_stay_and_do_not_vote() -> None:
    mask = np.full((5, 5), 255, np.uint8)
    mask[1:4, 1:4] = 3
    mask[2, 2] = 255
    mask[1, 1] = 4
    refined = refine_mask(mask, min_area_px=9, ignore_index=255)
    # The 3 (7 px) sees ignored pixels and one 4, which wins; the 4 (then 8 px) sees nothing but ignored pixels.
    expected = mask.copy()
    expected[1:4, 1:4][mask[1:4, 1:4] != 255] = 4
    np.testing.assert_array_equal(refined, expected)


def test_a_ring_of_ignored_pixels_only_leaves_the_component() -> None:
    mask = np.full((3, 3), 255, np.uint8)
    mask[1, 1] = 7
    np.testing.assert_array_equal(refine_mask(mask, min_area_px=5), mask)


@pytest.mark.parametrize("shape", [(2, 2), (1, 1), (0, 4), (4, 0)])
def test_an_empty_ring_leaves_the_component(shape: tuple[int, int]) -> None:
    mask = np.full(shape, 3, np.uint8)
    np.testing.assert_array_equal(refine_mask(mask, min_area_px=20, fill_holes_px=20), mask)


def test_holes_are_filled_only_when_asked_for_and_only_inside() -> None:
    mask = grid("11110", "10011", "11111", "01110", "11111")
    np.testing.assert_array_equal(refine_mask(mask, min_area_px=3), mask)
    filled = grid("11110", "11111", "11111", "01110", "11111")
    np.testing.assert_array_equal(refine_mask(mask, min_area_px=3, fill_holes_px=3), filled)
    np.testing.assert_array_equal(refine_mask(mask, min_area_px=3, fill_holes_px=2), mask)


def test_a_hole_between_classes_takes_the_majority() -> None:
    mask = grid("11222", "11022", "11222")
    np.testing.assert_array_equal(refine_mask(mask, min_area_px=0, fill_holes_px=2), grid("11222", "11222", "11222"))


def test_zero_turns_the_pass_off() -> None:
    mask = random_masks(1, seed=3)[0]
    refined = refine_mask(mask, min_area_px=0)
    np.testing.assert_array_equal(refined, mask)
    assert not np.shares_memory(refined, mask)


def test_uint16_masks_with_high_class_ids() -> None:
    mask = random_masks(1, seed=4)[0]
    high = np.array([0, 300, 40_000, 65_535], np.uint16)
    refined = refine_mask(high[mask], min_area_px=5, ignore_index=NO_IGNORE)
    assert refined.dtype == np.uint16
    np.testing.assert_array_equal(refined, high[oracle(mask, 5)])


def test_read_only_and_strided_input_is_left_untouched() -> None:
    mask = np.asfortranarray(random_masks(1, seed=5, size=24)[0])[::2, ::-2]
    before = mask.copy()
    mask.flags.writeable = False
    refined = refine_mask(mask, min_area_px=6)
    np.testing.assert_array_equal(refined, oracle(before, 6, 255))
    np.testing.assert_array_equal(mask, before)
    assert refined.flags.writeable


def test_stage_replaces_masks_counts_changes_and_passes_other_columns_on() -> None:
    masks = np.stack(random_masks(5, seed=6))
    masks[1] = 2
    masks.flags.writeable = False
    batch = {"mask": masks, "prompt": np.array([f"a cat {index}" for index in range(5)]), "seed": np.arange(5)}
    refined = refine_masks(batch, min_area_px=6, ignore_index=255, fill_holes_px=2)
    expected = np.stack([oracle(mask, 6, 255, 2) for mask in masks])
    np.testing.assert_array_equal(refined["mask"], expected)
    np.testing.assert_array_equal(refined["changed_pixels"], (expected != masks).sum(axis=(1, 2)))
    assert refined["changed_pixels"].dtype == np.int32
    assert refined["changed_pixels"][1] == 0
    assert refined["prompt"] is batch["prompt"] and refined["seed"] is batch["seed"]
    assert batch["mask"] is masks and set(batch) == {"mask", "prompt", "seed"}


def test_stage_takes_an_empty_batch() -> None:
    refined = refine_masks({"mask": np.zeros((0, 8, 8), np.uint8)}, min_area_px=20, ignore_index=255)
    assert refined["mask"].shape == (0, 8, 8)
    assert refined["changed_pixels"].shape == (0,)


@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4), np.float32), np.zeros((4, 4), np.int64), np.zeros((1, 4, 4), np.uint8)]
)
def test_other_types_and_shapes_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W\) of uint8 or uint16"):
        refine_mask(mask, min_area_px=20)


def test_negative_areas_and_unbatched_columns_are_refused() -> None:
    mask = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="min_area_px=-1"):
        refine_mask(mask, min_area_px=-1)
    with pytest.raises(ValueError, match="fill_holes_px=-2"):
        refine_mask(mask, min_area_px=20, fill_holes_px=-2)
    with pytest.raises(ValueError, match=r"must be \(B, H, W\)"):
        refine_masks({"mask": mask}, min_area_px=20, ignore_index=255)
