"""Scores of pairs that need no network: of the picture, of the mask, of both together, of the prompt.

`H`, `W` height and width of a pair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import cc3d
import numpy as np
import pyarrow as pa
from pydantic import field_validator
from scipy.ndimage import maximum_filter1d

from models.labels import LabelSpace
from pipeline.base.config import Config
from pipeline.evaluation.agreement import grey_values, sharpness
from pipeline.pictures.codec import decode_image, decode_mask
from pipeline.pictures.masks import class_areas
from pipeline.pictures.picture_hash import picture_hash
from pipeline.prompts.classes import named_classes
from pipeline.tables.pairs import encoded, has_mask, require_size
from pipeline.tables.schema import captions_of
from pipeline.tables.scores import score_schema

READ = ("pair_id", "image", "mask", "prompt", "captions", "prompt_class_ids")
NEARLY_BLACK = 16
"""Grey value of 255 below which a pixel is."""
BESIDE_PX = 4
"""How far from an edge of the mask it is looked for changes beside it."""
LOOKED_AT_PX = 256
"""Pixels a side that are looked at for that; of larger pictures every second, third or fourth."""
BEFORE = ((slice(None, -1),), (slice(None), slice(None, -1)))
BEHIND = ((slice(1, None),), (slice(None), slice(1, None)))
"""Pixels, and their neighbours below and to the right."""


class Unwanted(Config):
    """What nobody wants in a data set; such pairs get `blocked`."""

    words: tuple[str, ...] = ()
    """Words of prompts, in any case, as whole words."""
    classes: tuple[str, ...] = ()
    """Names of classes."""

    @field_validator("words")
    @classmethod
    def _said(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if not all(word.strip() for word in words):
            raise ValueError("a blank word is found in most prompts; leave it out")
        return words

    def found(self, texts: list[str], ids: np.ndarray, labels: LabelSpace) -> bool | None:
        """Whether a pair with these captions and class ids is blocked; None where nothing was unwanted."""
        if not self.words and not self.classes:
            return None
        words = "|".join(re.escape(word.strip()) for word in self.words)
        spoken = bool(words) and any(re.search(rf"(?<!\w)(?:{words})(?!\w)", text, re.I) for text in texts)
        return spoken or any(labels.classes[one] in self.classes for one in ids if one <= labels.num_classes)


def plain_scores(rows: pa.Table, *, labels: LabelSpace, unwanted: Unwanted, made_by: str) -> pa.Table:
    """Stage: packed pairs -> their plain scores; `made_by` is the column `plain_by`."""
    schema = score_schema("plain")
    made = [{**plain_score(row, labels, unwanted), "plain_by": made_by} for row in rows.to_pylist()]
    return pa.Table.from_pylist(made, schema=schema)


def plain_score(row: Mapping[str, Any], labels: LabelSpace, unwanted: Unwanted) -> dict[str, Any]:
    """The plain scores of a row of PAIR.

    Raises:
        DataError, MaskError: a picture that cannot be decoded, or a mask of another size.
    """
    where = f"pair {row['pair_id']}"
    image = decode_image(encoded(row, "image"), f"{where}, image")
    grey = grey_values(image)
    scores: dict[str, Any] = {
        "pair_id": row["pair_id"],
        "sharpness": sharpness(image[None]),
        "contrast": float(grey.std() / 255),
        "dark": float((grey < NEARLY_BLACK).mean()),
        "picture_hash": picture_hash(image),
    }
    ids = np.array([], np.int64)
    if has_mask(row):
        mask = decode_mask(encoded(row, "mask"), f"{where}, mask")
        require_size(mask, image, f"{where}, mask")
        ids, _ = class_areas(mask)
        ids = ids[ids != labels.ignore_index]
        mask = labels.as_learned(mask)
        scores |= {
            "regions": num_regions(mask, labels.ignore_index),
            "edge_contrast": edge_contrast(image, mask, labels.ignore_index),
            "unknown": float((mask == labels.ignore_index).mean()),
        }
        if named := named_classes(row, labels):
            there = set(ids.tolist()) - {0}
            scores["classes_found"] = len(named & there) / len(named)
            scores["classes_unasked"] = len(there - named)
    scores["blocked"] = unwanted.found(captions_of(row), ids, labels)
    return scores


def num_regions(mask: np.ndarray, ignore_index: int) -> int:
    """4-connected parts of classes other than 0 in a mask (H, W)."""
    return int(cc3d.connected_components(np.where(mask == ignore_index, 0, mask), connectivity=4).max())


def edge_contrast(image: np.ndarray, mask: np.ndarray, ignore_index: int) -> float | None:
    """How much neighbouring pixels of a picture (H, W, 3) uint8 differ where the classes of its mask (H, W) do, over
    how much they do a little beside: above 1 where edges of the mask lie on edges of the picture. None for a mask
    without edges, or without room beside them."""
    step = max(1, min(mask.shape) // LOOKED_AT_PX)
    image, mask = image[::step, ::step], mask[::step, ::step]
    known = mask != ignore_index
    on_edges, num_edges, beside, num = 0, 0, 0, 0
    for one, other in zip(BEFORE, BEHIND, strict=True):
        edge = (mask[one] != mask[other]) & known[one] & known[other]
        if not edge.any():
            continue
        near = _widened(edge, BESIDE_PX) & ~_widened(edge, 1)
        on_edges, num_edges = on_edges + _change(image[one][edge], image[other][edge]), num_edges + int(edge.sum())
        beside, num = beside + _change(image[one][near], image[other][near]), num + int(near.sum())
    return (on_edges / num_edges) / max(beside / num, 1e-6) if num_edges and num else None


def _change(one: np.ndarray, other: np.ndarray) -> int:
    """How much pixels (P, 3) uint8 differ from others, in all."""
    return int(np.abs(one.astype(np.int16) - other).sum())


def _widened(pixels: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: pixels that are at most so far from some, rows, columns and diagonals alike."""
    found = pixels.view(np.uint8)
    for axis in (0, 1):
        found = maximum_filter1d(found, 2 * width + 1, axis, mode="constant")
    return found.view(bool)
