"""Scores of pairs by a segmenter that learned from real pairs: what it thinks of their masks.

Legend: B pairs, H and W their sides, K classes with 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from models.labels import LabelSpace
from pipeline.pictures.codec import encode_mask
from pipeline.prompts.classes import named_classes
from pipeline.tables.conform import object_column
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.rows import has_classes
from pipeline.tables.scores import score_schema

READ = ("pair_id", "image", "mask", "class_ids", "prompt", "captions", "prompt_class_ids")
Sees = Callable[[np.ndarray], np.ndarray]
"""(B, H, W, 3) uint8 -> (B, K, H, W) float, its shares of classes."""
NOISY = 1.25
"""Times the mean loss of its class in real pairs above which a pixel is noise (FreeMask, section 3.3)."""
LEAST_SHARE = 1e-6
PICTURES_AT_ONCE, VALUES_AT_ONCE = 64, 2**26
"""Pictures that are seen at once, and shares of classes, pixels x classes, or those of one picture: of ADE20K at 512
pixels one holds 40 million."""


class Judged(NamedTuple):
    """Scores of B pairs, (B,) each, NaN where no pixel is known; `noise` (B, H, W) bool: pixels that are noisy."""

    agreement: np.ndarray
    agreement_held: np.ndarray
    loss: np.ndarray
    noisy: np.ndarray
    noise: np.ndarray


def judge_scores(
    rows: pa.Table, *, sees: Sees, labels: LabelSpace, usual: np.ndarray, size_px: int, made_by: str
) -> pa.Table:
    """Stage: packed pairs -> their scores by a segmenter; null for those without a mask.

    Args:
        rows: the columns READ of PAIR.
        sees: what the segmenter sees.
        labels: of the masks.
        usual: (K,) of `usual_losses`.
        size_px: side at which the middle of each pair is judged; 0 takes pairs as they are, and keeps `noise_map`.
        made_by: the column `judge_by`.
    """
    schema = score_schema("judge")
    has = has_classes(rows)
    table: dict[str, list[object]] = {name: [None] * rows.num_rows for name in schema.names}
    table |= {"pair_id": rows["pair_id"].to_pylist(), "judge_by": [made_by] * rows.num_rows}
    if has.any():
        kept = rows.filter(pa.array(has))
        pairs = decode_pairs({name: object_column(kept[name].to_pylist()) for name in ("image", "mask")}, size_px)
        masks = labels.as_learned(pairs["mask"])
        named = [named_classes(row, labels) for row in kept.drop_columns(["image", "mask"]).to_pylist()]
        may = np.array([[bool(one) and (not n or n in one) for n in range(labels.num_classes + 1)] for one in named])
        first = 1 if labels.zero == "other" else 0
        numbers = np.flatnonzero(has)
        for part in parts(masks, labels.num_classes + 1):
            shares = sees(pairs["image"][part])
            found = judged(shares, masks[part], may[part], usual, labels.ignore_index, first)
            for place, number in enumerate(numbers[part].tolist()):
                for name in ("agreement", "agreement_held", "loss", "noisy"):
                    value = float(getattr(found, name)[place])
                    table[name][number] = None if np.isnan(value) else value
                if not size_px:
                    noise = np.where(found.noise[place], 255, 0).astype(np.uint8)
                    table["noise_map"][number] = {"bytes": encode_mask(noise), "path": None}
    return pa.table({name: pa.array(table[name], schema.field(name).type) for name in schema.names}, schema=schema)


def usual_losses(sees: Sees, images: np.ndarray, masks: np.ndarray, num_ids: int, ignore_index: int) -> np.ndarray:
    """(K,) mean loss of each class over the pixels of real pairs that have it; NaN for one that no pixel has.

    Args:
        sees: what the segmenter sees.
        images: (B, H, W, 3) uint8.
        masks: (B, H, W).
        num_ids: K.
        ignore_index: of the masks.
    """
    num, total = np.zeros((2, num_ids))
    for part in parts(masks, num_ids):
        known = masks[part] != ignore_index
        ids = masks[part][known].astype(np.int64)
        num += np.bincount(ids, minlength=num_ids)
        total += np.bincount(ids, losses(sees(images[part]), masks[part], ignore_index)[known], num_ids)
    return np.where(num > 0, total / np.maximum(num, 1), np.nan)


def parts(masks: np.ndarray, num_ids: int) -> Iterator[slice]:
    """The pictures of masks (B, H, W) a few at a time, so that their shares of `num_ids` classes are not too many."""
    step = max(1, min(PICTURES_AT_ONCE, VALUES_AT_ONCE // (masks[0].size * num_ids)))
    return (slice(start, start + step) for start in range(0, len(masks), step))


def judged(
    shares: np.ndarray, masks: np.ndarray, may: np.ndarray, usual: np.ndarray, ignore_index: int, first: int = 0
) -> Judged:
    """What the segmenter thinks of masks.

    Args:
        shares: (B, K, H, W) float, what it sees.
        masks: (B, H, W) class ids.
        may: (B, K) bool: classes that it may answer when it is held; rows without any are NaN then.
        usual: (K,) mean loss of each class in real pairs, NaN for one that they do not hold.
        ignore_index: of the masks.
        first: the lowest id that is a class.
    """
    known = masks != ignore_index
    loss = losses(shares, masks, ignore_index)
    ids = np.where(known, masks, 0)
    limit = np.where(np.isnan(usual), np.inf, NOISY * usual)[ids]
    noise = known & (loss > limit)
    num = known.sum((1, 2))
    held = np.where(may[:, first:, None, None], shares[:, first:], -1.0).argmax(1) + first
    free = shares[:, first:].argmax(1) + first
    answers = ((one, [balanced(*each) for each in zip(masks, one, known, strict=True)]) for one in (free, held))
    (_, agreement), (_, agreement_held) = answers
    with np.errstate(invalid="ignore"):
        return Judged(
            np.array(agreement),
            np.where(may.any(1), agreement_held, np.nan),
            loss.sum((1, 2)) / np.where(num, num, np.nan),
            noise.sum((1, 2)) / np.where(num, num, np.nan),
            noise,
        )


def losses(shares: np.ndarray, masks: np.ndarray, ignore_index: int) -> np.ndarray:
    """Cross-entropy of each pixel's class, (B, H, W) float32; 0 where it is unknown."""
    known = masks != ignore_index
    ids = np.where(known, masks, 0).astype(np.int64)
    own = np.take_along_axis(shares, ids[:, None], 1)[:, 0]
    return np.where(known, -np.log(np.maximum(own, LEAST_SHARE)), 0).astype(np.float32)


def balanced(mask: np.ndarray, answer: np.ndarray, known: np.ndarray) -> float:
    """Mean over the classes of a mask (H, W) of their IoU with an answer (H, W), over known pixels; NaN without any."""
    mask, answer = mask[known].astype(np.int64), answer[known].astype(np.int64)
    if not mask.size:
        return float("nan")
    num = int(max(mask.max(), answer.max())) + 1
    both = np.bincount(mask[mask == answer], minlength=num)
    own = np.bincount(mask, minlength=num)
    union = own + np.bincount(answer, minlength=num) - both
    return float((both[own > 0] / union[own > 0]).mean())
