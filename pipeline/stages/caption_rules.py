"""CaptionByRule: captions without a network, from what is known of a picture: its mask, or what it is said to show.

Of a labelled picture it says class, size, place and colour of every class, largest first: "a large brown dog on the
left and a person, mostly green". Of one without a mask it says the classes that its caption names, and what the picture
alone tells. Nouns are names of classes, so that prompts and masks speak of the same things.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.pictures.codec import decode_image
from pipeline.prompts.classes import classes_in_prompt, spoken
from pipeline.prompts.sources import fill
from pipeline.stages.caption import has_captions
from pipeline.tables.conform import conform
from pipeline.tables.pairs import encoded, has_mask, unpack_pair
from pipeline.tables.schema import PAIR, captions_of

LARGE, SMALL = 0.25, 0.04
"""Shares of a picture from which a class is large, and below which it is small."""
HUES = (
    (0.03, "red"),
    (0.1, "orange"),
    (0.18, "yellow"),
    (0.45, "green"),
    (0.7, "blue"),
    (0.82, "purple"),
    (0.94, "pink"),
)
"""Where each hue ends, of 1; red again behind the last."""


class CaptionByRule:
    """Stage: rows of PAIR -> the same with `prompt` and `captions`, one each; adds `error` with `error_detail`.

    Args:
        labels: the classes.
        keep: leave rows alone that have captions; those of pictures without masks then stay as they are.
    """

    def __init__(self, labels: LabelSpace, *, keep: bool) -> None:
        self.labels, self.keep = labels, keep

    def __call__(self, rows: pa.Table) -> pa.Table:
        rows = conform(rows, PAIR)
        errors = {name: [""] * rows.num_rows for name in ("error", "error_detail")}
        made = rows.to_pylist()
        todo = ~(has_captions(rows) & self.keep)
        for place in np.flatnonzero(todo).tolist():
            try:
                text = self.caption(made[place])
            except DataError as error:
                errors["error"][place], errors["error_detail"][place] = "undecodable_input", str(error)
                continue
            made[place] |= {"prompt": text, "captions": [text]}
        for name in ("prompt", "captions"):
            column = rows.schema.get_field_index(name)
            values = pa.array([row[name] for row in made], rows.schema.field(name).type)
            rows = rows.set_column(column, rows.schema.field(name), values)
        for name, values in errors.items():
            rows = rows.append_column(name, pa.array(values, pa.string()))
        return rows

    def caption(self, row: Mapping[str, Any]) -> str:
        """The caption of a row of PAIR.

        Raises:
            DataError: a picture that cannot be decoded.
        """
        where = f"pair {row['pair_id']}"
        if has_mask(row):
            image, mask, _, _ = unpack_pair(row, self.labels, where)
            things = described(image, mask, self.labels)
        else:
            image = decode_image(encoded(row, "image"), f"{where}, image")
            named = {one for text in captions_of(row) for one in classes_in_prompt(text, self.labels)}
            things = [fill("a {a}", [spoken(self.labels.classes[one])]) for one in sorted(named)]
        *first, last = things or ["a picture"]
        shown = f"{', '.join(first)} and {last}" if first else last
        return f"{shown}{_word(', mostly ', image.reshape(-1, 3), self.labels)}"


def described(image: np.ndarray, mask: np.ndarray, labels: LabelSpace) -> list[str]:
    """What a picture (H, W, 3) uint8 shows by its mask (H, W): a phrase for each class, the largest first."""
    height, width = mask.shape
    found = []
    for class_id in range(1, labels.num_classes + 1):
        inside = mask == class_id
        if not inside.any():
            continue
        share = float(inside.mean())
        size = "large " if share >= LARGE else "small " if share < SMALL else ""
        rows, columns = np.nonzero(inside)
        place = side(columns.mean() / width, "on the left", "on the right") or side(
            rows.mean() / height, "at the top", "at the bottom"
        )
        name = f"{size}{_word('', image[inside], labels, ' ')}{spoken(labels.classes[class_id])}"
        found.append((-share, f"{fill('a {a}', [name])} {place}".strip()))
    return [phrase for _, phrase in sorted(found)]


def side(centre: float, first: str, last: str) -> str:
    """What is said of a thing whose middle lies at `centre` of a side, from 0 to 1; nothing of the middle third."""
    return first if centre < 1 / 3 else last if centre > 2 / 3 else ""


def _word(before: str, pixels: np.ndarray, labels: LabelSpace, behind: str = "") -> str:
    """The colour with what stands around it; nothing where its word names a class, such as COCO's orange."""
    word = colour(pixels)
    return "" if classes_in_prompt(word, labels) else f"{before}{word}{behind}"


def colour(pixels: np.ndarray) -> str:
    """The word for the mean of pixels (N, 3) uint8."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(pixels.mean(0) / 255))
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.8 else "grey"
    word = next((word for end, word in HUES if hue < end), "red")
    if word in ("red", "orange", "yellow") and value < 0.65 and saturation < 0.75:
        return "brown"
    return "pink" if word == "red" and saturation < 0.5 and value > 0.7 else word
