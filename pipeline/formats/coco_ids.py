"""The official category ids of COCO, which have gaps; the label space "coco" numbers the same 80 things without."""

from __future__ import annotations

UNUSED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""Ids between 1 and 90 that were planned and never annotated."""


def coco_category_ids() -> tuple[int, ...]:
    """The official id of each of the 80 things, in the order of the label space "coco": class id 1 + its place here."""
    return tuple(category for category in range(1, 91) if category not in UNUSED)
