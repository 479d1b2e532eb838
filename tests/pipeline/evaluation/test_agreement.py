"""What a segmenter, and the prompts, say of masks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models.labels import LabelSpace
from pipeline.base.errors import ConfigError
from pipeline.evaluation import agreement as module
from pipeline.evaluation.agreement import agreement, prompt_match, sharpness

LABELS = LabelSpace.custom("animals", ("cat", "dog"))
MASKS = {
    b"a": np.array([[0, 0], [1, 1]], np.uint8),
    b"b": np.array([[0, 2], [2, LABELS.ignore_index]], np.uint8),
    b"c": np.array([[1, 1], [1, 1]], np.uint8),
}


def judged(rows: pa.Table, predicted: np.ndarray):
    """The agreement where a segmenter sees `predicted` in each picture; and what it was given, in order."""
    seen = []

    def decode(batch):
        seen.extend(batch["image"].tolist())
        return {"image": batch["image"], "mask": np.stack([MASKS[one] for one in batch["mask"]])}

    found = agreement(
        rows,
        LABELS,
        decode=decode,
        predict=lambda images: np.stack([predicted] * len(images)),
        judge="real",
        on="runs/synthetic",
    )
    return found, seen


def rows_of(**names: bytes) -> pa.Table:
    return pa.table({"pair_id": list(names), "image": [name.encode() for name in names], "mask": list(names.values())})


def test_agreement_worked_out_by_hand():
    found, _ = judged(rows_of(one=b"a", two=b"b"), np.array([[0, 2], [1, 1]], np.uint8))
    # Known pixels 7, right 5: background 2 of 3 (one seen as dog), cat 2 of 3, dog 1 of 3.
    assert found.pixel_accuracy == pytest.approx(5 / 7)
    assert found.miou == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert (found.judge, found.on) == ("real", "runs/synthetic")
    # Both see an object in four pixels: two cats and a dog alike, one dog is seen as a cat.
    assert found.class_accuracy == pytest.approx(3 / 4) and found.sharpness is None


def test_sharpness_is_that_of_edges_beside_real_ones():
    flat = np.full((2, 8, 8, 3), 90, np.uint8)
    checked = np.where((np.indices((8, 8)).sum(0) % 2)[None, ..., None], 40, 30).astype(np.uint8).repeat(3, -1)
    assert sharpness(flat) == 0 and sharpness(checked) == pytest.approx((4 * 10) ** 2)
    ramp = np.arange(8, dtype=np.uint8)[None, :, None, None] * 9 + np.zeros((1, 8, 8, 3), np.uint8)
    assert sharpness(ramp) == 0, "a slope is no edge"


def test_the_first_in_the_order_of_ids_are_judged(monkeypatch):
    monkeypatch.setattr(module, "MAX_JUDGED", 2)
    found, seen = judged(rows_of(z=b"a", b=b"c", a=b"c"), np.ones((2, 2), np.uint8))
    assert seen == [b"a", b"b"] and found.miou == 1


def test_masks_without_known_pixels_say_what_to_do(monkeypatch):
    """The score would be no number, and the proof could not be read again."""
    monkeypatch.setitem(MASKS, b"u", np.full((2, 2), LABELS.ignore_index, np.uint8))
    with pytest.raises(ConfigError, match="runs/synthetic: no pixel of the 2 judged masks has a known class.*`judged`"):
        judged(rows_of(one=b"u", two=b"u"), np.zeros((2, 2), np.uint8))


def test_a_mask_matches_its_prompt_where_it_holds_exactly_the_named_classes():
    ignored = LABELS.ignore_index
    prompts_and_ids: list[tuple[str | None, list[int]]] = [
        ("a cat", [0, 1]),  # yes
        ("two dogs and a cat", [1, 2, ignored]),  # yes: unknown pixels aside
        ("a dog", [0, 1, 2]),  # no: a cat besides
        ("a cat and a dog", [0, 1]),  # no: no dog
        ("a field", [0, 1]),  # names none: does not count
        (None, [0, 1]),
    ]
    prompts, ids = zip(*prompts_and_ids, strict=True)
    assert prompt_match(pa.table({"prompt": prompts, "class_ids": ids}), LABELS) == 2 / 4


def test_prompts_that_name_no_class_say_what_to_do():
    rows = pa.table({"prompt": ["a field", None], "class_ids": [[1], [2]]})
    with pytest.raises(ConfigError, match="no prompt .* names a class .* leave `judged` empty"):
        prompt_match(rows, LABELS)
