"""Plain scores say what is in the picture and the mask, worked out by hand; null where they mean nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from models.labels import LabelSpace
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.stages.score_plain import Unwanted, edge_contrast, num_regions, plain_score, plain_scores

LABELS = LabelSpace.custom("mine", ("dog", "apple"))


def row(image, mask=None, prompt="", **further):
    picture = None if mask is None else {"bytes": encode_mask(mask), "path": None}
    return {"pair_id": "a", "image": {"bytes": encode_image(image)}, "mask": picture, "prompt": prompt, **further}


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A white dog on the left of a black picture with a grey stripe, a pixel of nothing known."""
    image, mask = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)
    image[:, :8], mask[:, :8] = 255, 1
    image[:, 10:] = 51
    mask[15, 15] = LABELS.ignore_index
    return image, mask


def test_scores_worked_out_by_hand():
    score = plain_score(row(*scene(), "a dog and an apple"), LABELS, Unwanted())
    assert score["contrast"] == pytest.approx(np.std([255] * 8 + [0] * 2 + [51] * 6) / 255) and score["dark"] == 2 / 16
    assert score["regions"] == 1 and score["unknown"] == pytest.approx(1 / 256)
    # Beside the edge, two to four pixels off, one of six neighbours changes by a fifth.
    assert score["edge_contrast"] == pytest.approx(255 / (51 / 6))
    assert score["classes_found"] == 0.5 and score["classes_unasked"] == 0
    # Of the fourteen inner columns two see an edge of 255, two one of 51.
    assert score["sharpness"] == pytest.approx((2 * 255**2 + 2 * 51**2) / 14)
    assert score["blocked"] is None and isinstance(score["picture_hash"], int)


def test_what_means_nothing_is_null():
    image, _ = scene()
    score = plain_score(row(image, None, "a nice picture"), LABELS, Unwanted())
    assert {"regions", "edge_contrast", "unknown", "classes_found"}.isdisjoint(score)
    flat = plain_score(row(np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8), np.uint8)), LABELS, Unwanted())
    assert flat["picture_hash"] is None and flat["edge_contrast"] is None and flat["contrast"] == 0
    table = plain_scores(
        pa.Table.from_pylist([row(*scene()), row(image)]), labels=LABELS, unwanted=Unwanted(), made_by="{}"
    )
    assert table["regions"].to_pylist() == [1, None] and table["plain_by"].to_pylist() == ["{}", "{}"]


def test_a_shifted_mask_does_not_lie_on_edges():
    image, mask = scene()
    off = edge_contrast(image, np.roll(mask, 3, 1), LABELS.ignore_index)
    assert off is not None and off < 1
    assert num_regions(np.array([[1, 2], [2, 1]]), 255) == 4, "corners do not touch"
    assert num_regions(np.array([[1, 255], [255, 0]]), 255) == 1


def test_unwanted_words_and_classes_block_a_pair():
    unwanted = Unwanted(words=("gun",), classes=("apple",))
    image, mask = scene()
    assert plain_score(row(image, mask, "a Gun"), LABELS, unwanted)["blocked"] is True
    assert plain_score(row(image, mask, "a gunman"), LABELS, unwanted)["blocked"] is False
    assert plain_score(row(image, 2 * mask // 1, "a dog"), LABELS, unwanted)["blocked"] is True


def test_where_zero_is_no_class_it_is_unknown_and_has_no_edges():
    image, mask = scene()
    score = plain_score(row(image, mask, "a dog"), replace(LABELS, zero="other"), Unwanted())
    assert score["unknown"] == 0.5 and score["edge_contrast"] is None and score["regions"] == 1
    assert score["classes_found"] == 1 and score["classes_unasked"] == 0
