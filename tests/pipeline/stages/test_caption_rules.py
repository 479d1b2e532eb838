"""Captions by rule: of labelled pictures what their masks say, of others what is known of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models.labels import LabelSpace
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.stages.caption_rules import CaptionByRule, colour
from pipeline.tables.conform import conform
from pipeline.tables.schema import PAIR

LABELS = LabelSpace.custom("mine", ("dog", "apple", "pottedplant"))
GREEN, BROWN, RED = (40, 160, 50), (120, 80, 50), (200, 20, 30)


def row(name: str, image: np.ndarray, mask: np.ndarray | None, prompt: str = "") -> dict:
    ids = [] if mask is None else np.unique(mask).tolist()
    return {
        "pair_id": name, "prompt": prompt, "image": encode_image(image),
        "mask": b"" if mask is None else encode_mask(mask),
        "height": 24, "width": 24, "class_ids": ids, "class_pixels": ids, "origin": "real",
    }  # fmt: skip


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A large brown dog on the left, a small red apple at the bottom, on green."""
    image, mask = np.full((24, 24, 3), GREEN, np.uint8), np.zeros((24, 24), np.uint8)
    image[2:22, :8], mask[2:22, :8] = BROWN, 1
    image[20:24, 12:16], mask[20:24, 12:16] = RED, 2
    mask[0] = LABELS.ignore_index
    return image, mask


def captions(rows: list[dict], keep: bool = False) -> list[dict]:
    return CaptionByRule(LABELS, keep=keep)(conform(pa.Table.from_pylist(rows), PAIR)).to_pylist()


def test_a_labelled_picture_is_described_by_its_mask():
    (made,) = captions([row("a", *scene())])
    assert made["prompt"] == "a large brown dog on the left and a small red apple at the bottom, mostly green"
    assert made["captions"] == [made["prompt"]] and made["error"] == ""


def test_a_picture_without_a_mask_has_the_classes_that_it_is_said_to_show():
    image, mask = scene()
    rows = [row("a", image, None, "potted plant; two apples"), row("b", image, None), row("c", image, 0 * mask)]
    assert [made["prompt"] for made in captions(rows)] == [
        "an apple and a potted plant, mostly green", "a picture, mostly green", "a picture, mostly green",
    ]  # fmt: skip


def test_a_colour_that_is_a_class_is_not_named():
    image, _ = scene()
    orange = np.full_like(image, (250, 130, 20))
    labels = LabelSpace.custom("fruit", ("orange", "dog"))
    stage = CaptionByRule(labels, keep=False)
    assert (
        stage.caption({"pair_id": "a", "image": {"bytes": encode_image(orange)}, "mask": None, "prompt": ""})
        == "a picture"
    )
    bare = {"pair_id": "a", "image": {"bytes": encode_image(image)}, "mask": None, "prompt": "a dog"}
    assert stage.caption(bare) == "a dog, mostly green"


def test_captions_that_are_there_are_kept_and_damaged_pictures_told():
    image, mask = scene()
    broken = {**row("c", image, None, "a dog"), "image": b"?"}
    kept, new, bad = captions([row("a", image, mask, "my dog"), row("b", image, mask), broken], keep=True)
    assert (kept["prompt"], new["prompt"][:7], bad["prompt"]) == ("my dog", "a large", "a dog")
    (bad,) = captions([broken])
    assert bad["error"] == "undecodable_input" and "pair c" in bad["error_detail"]


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((10, 10, 10), "black"), ((250, 250, 250), "white"), ((128, 128, 128), "grey"), ((220, 20, 20), "red"),
        ((240, 130, 20), "orange"), ((240, 230, 30), "yellow"), (GREEN, "green"), ((30, 60, 200), "blue"),
        ((110, 40, 170), "purple"), ((250, 180, 190), "pink"), (BROWN, "brown"), ((230, 60, 160), "pink"),
    ],
)  # fmt: skip
def test_colours_have_their_usual_names(rgb, word):
    assert colour(np.array([rgb], np.uint8)) == word
