"""The page of what was understood of some pairs, before all are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from models.labels import LabelSpace
from pipeline.pages.shown import picture_row


class Seen(NamedTuple):
    """What some pairs hold of one class: its id, name and colour, the share of all pixels of their masks, and in how
    many pictures it is."""

    id: int
    name: str
    colour: tuple[int, int, int]
    share: float
    pictures: int


def classes_seen(rows: Sequence[Mapping[str, Any]], labels: LabelSpace) -> list[Seen]:
    """A line for each class of a label space, and for its ignore index; also those that are in no mask.

    Args:
        rows: of PAIR, with `class_ids` and `class_pixels`.
        labels: of their masks.
    """
    pixels: Counter[int] = Counter()
    pictures: Counter[int] = Counter()
    for row in rows:
        for class_id, area in zip(row["class_ids"], row["class_pixels"], strict=True):
            pixels[int(class_id)] += int(area)
            pictures[int(class_id)] += 1
    named = [*enumerate(zip(labels.classes, labels.palette, strict=True))]
    named.append((labels.ignore_index, ("(no known class)", (255, 255, 255))))
    total = max(1, pixels.total())
    return [
        Seen(class_id, name, colour, pixels[class_id] / total, pictures[class_id]) for class_id, (name, colour) in named
    ]


def render(
    title: str, rows: Sequence[dict[str, Any]], errors: Sequence[str], labels: LabelSpace, facts: Mapping[str, str]
) -> str:
    """The page as HTML text, with its pictures in it.

    Args:
        title: what the data set is called.
        rows: of PAIR: pairs that were read.
        errors: why others were not.
        labels: of the masks.
        facts: what else is to be told, by name.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("look.html.j2").render(
        title=title,
        pairs=[picture_row(row, labels, str(row["pair_id"])) for row in rows],
        classes=classes_seen(rows, labels),
        errors=errors,
        facts=facts,
    )
