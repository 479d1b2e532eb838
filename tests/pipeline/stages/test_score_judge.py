"""A judge's scores worked out by hand: agreement by class, loss, and pixels that are noise beside what is usual."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.labels import LabelSpace
from pipeline.pictures.codec import decode_mask, encode_image, encode_mask
from pipeline.stages import score_judge
from pipeline.stages.score_judge import balanced, judge_scores, judged, losses, usual_losses

LABELS = LabelSpace.custom("mine", ("dog", "apple"))
VOID = LABELS.ignore_index


def shares(ids: np.ndarray, sure: float = 0.8) -> np.ndarray:
    """(B, 3, H, W) of a network that is so sure of ids (B, H, W)."""
    found = np.full((len(ids), 3, *ids.shape[1:]), (1 - sure) / 2)
    np.put_along_axis(found, ids[:, None], sure, 1)
    return found


def test_agreement_is_the_mean_over_the_classes_of_the_mask():
    mask, seen = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 2]])
    assert balanced(mask, seen, mask >= 0) == (1 / 2 + 1 / 3) / 2
    assert balanced(mask, seen, np.array([[True, False, True, False]])) == 1.0
    assert math.isnan(balanced(mask, seen, np.zeros_like(mask, bool)))


def test_losses_and_noise_are_of_known_pixels():
    masks = np.array([[[0, 1], [2, VOID]]])
    sees = shares(np.array([[[0, 1], [0, 0]]]))
    loss = losses(sees, masks, VOID)
    np.testing.assert_allclose(loss[0], [[-math.log(0.8)] * 2, [-math.log(0.1), 0]], rtol=1e-5)
    usual = usual_losses(lambda images: sees, np.zeros((1, 2, 2, 3), np.uint8), masks, 3, VOID)
    np.testing.assert_allclose(usual, [-math.log(0.8), -math.log(0.8), -math.log(0.1)], rtol=1e-5)
    found = judged(sees, masks, np.array([[True, True, False]]), np.array([0.3, np.nan, 0.3]), VOID)
    assert found.noise.tolist() == [[[False, False], [True, False]]], "class 1 has no usual loss, void is unknown"
    np.testing.assert_allclose(found.noisy, [1 / 3])
    np.testing.assert_allclose(found.loss, [(-2 * math.log(0.8) - math.log(0.1)) / 3], rtol=1e-5)


def test_a_held_judge_answers_what_it_may():
    masks = np.full((2, 2, 2), 1)
    sees = shares(np.full((2, 2, 2), 2), 0.6)
    may = np.array([[True, True, False], [False, False, False]])
    found = judged(sees, masks, may, np.full(3, 1.0), VOID)
    assert found.agreement.tolist() == [0, 0]
    assert found.agreement_held[0] in (0.0, 1.0) and np.isnan(found.agreement_held[1])


def test_rows_without_masks_have_no_scores_and_noise_is_kept_as_a_map():
    image = np.zeros((2, 2, 3), np.uint8)
    mask = np.array([[0, 1], [2, VOID]], np.uint8)
    rows: list[dict[str, Any]] = [
        {"pair_id": "a", "mask": {"bytes": encode_mask(mask)}, "class_ids": [0, 1, 2, VOID], "prompt": "a dog"},
        {"pair_id": "b", "mask": None, "class_ids": [], "prompt": ""},
    ]
    table = pa.Table.from_pylist([{**one, "image": {"bytes": encode_image(image)}} for one in rows])
    made = judge_scores(
        table,
        sees=lambda images: shares(np.zeros((len(images), 2, 2), int)),
        labels=LABELS,
        usual=np.array([0.5, 0.5, 0.5]),
        size_px=0,
        made_by="{}",
    ).to_pylist()
    assert made[1] == {**dict.fromkeys(made[1]), "pair_id": "b", "judge_by": "{}"}
    assert made[0]["noisy"] == np.float32(2 / 3)
    assert decode_mask(made[0]["noise_map"]["bytes"], "map").tolist() == [[0, 255], [255, 0]]


def test_zero_that_is_no_class_is_neither_judged_nor_answered():
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    mask[:, :2] = 1
    row = {"pair_id": "a", "image": {"bytes": encode_image(image)}, "mask": {"bytes": encode_mask(mask)}}
    table = pa.Table.from_pylist([{**row, "class_ids": [0, 1], "prompt": "a dog"}])

    def sees(images: np.ndarray) -> np.ndarray:
        """Most of it nothing, as a channel that is never trained may, and else the dog on the left."""
        found = np.zeros((len(images), 3, 4, 4))
        found[:, 0], found[:, 1, :, :2], found[:, 2, :, 2:] = 0.6, 0.4, 0.4
        return found

    def made(zero: Any) -> dict[str, Any]:
        labels = replace(LABELS, zero=zero)
        usual = np.array([np.nan, 1.0, 1.0])
        rows = judge_scores(table, sees=sees, labels=labels, usual=usual, size_px=0, made_by="{}").to_pylist()
        return {name: rows[0][name] for name in ("agreement", "agreement_held", "loss", "noisy")}

    known = np.float32(-math.log(0.4))
    assert made("other") == {"agreement": 1, "agreement_held": 1, "loss": known, "noisy": 0}
    assert made("background")["agreement"] == 0.25


@pytest.mark.parametrize(("values", "sizes"), [(2**26, [7]), (3 * 48, [3, 3, 1]), (1, [1] * 7)])
def test_shares_are_held_of_a_few_pictures_at_a_time(values, sizes, monkeypatch):
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 255, (7, 4, 4, 3), np.uint8)
    masks = numbers.choice([0, 1, 2, VOID], (7, 4, 4)).astype(np.uint8)
    rows = [
        {"pair_id": str(number), "image": {"bytes": encode_image(image)}, "mask": {"bytes": encode_mask(mask)}}
        for number, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]
    table = pa.Table.from_pylist([{**one, "class_ids": [0, 1, 2], "prompt": "a dog"} for one in rows])
    seen: list[int] = []

    def sees(some: np.ndarray) -> np.ndarray:
        seen.append(len(some))
        found = some.transpose(0, 3, 1, 2) / 255 + 0.01
        return found / found.sum(1, keepdims=True)

    def made() -> tuple[np.ndarray, pa.Table]:
        usual = usual_losses(sees, images, masks, 3, VOID)
        return usual, judge_scores(table, sees=sees, labels=LABELS, usual=usual, size_px=4, made_by="{}")

    whole = made()
    seen.clear()
    monkeypatch.setattr(score_judge, "VALUES_AT_ONCE", values)
    few = made()
    assert seen == 2 * sizes
    np.testing.assert_allclose(few[0], whole[0], rtol=1e-6)
    assert few[1].equals(whole[1])
