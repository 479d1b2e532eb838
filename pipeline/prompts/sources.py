"""Where prompts come from: captions of pairs, templates over classes, files of the user."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.errors import ConfigError, DataError
from pipeline.prompts.classes import classes_in_prompt, objects_in_prompt, spoken
from pipeline.prompts.files import PROMPTS
from pipeline.prompts.read import check_class_ids, distinct, read_prompts
from pipeline.tables.rows import read_texts
from pipeline.tables.schema import captions_of

PLAN = PROMPTS.append(pa.field("kind", pa.string()))
"""The columns of prompts.parquet; `kind` is "caption", "caption; classes", "template" or "file"."""
WITH_CLASSES = "caption; classes"
PLACE = re.compile(r"(?:\b(an?) )?\{(.*?)\}", re.IGNORECASE)
AN_SOUND = re.compile(r"(?!uni|us[ae]|eu|one)[aeiou]|hour|honest", re.IGNORECASE)


class Asked(NamedTuple):
    """One prompt of one source; a row of PLAN."""

    prompt: str
    weight: float
    class_ids: list[int] | None
    kind: str


def from_captions(
    folders: Sequence[str], labels: LabelSpace | None, *, all_of_them: bool, append_classes: bool
) -> Iterator[Asked]:
    """The captions of pairs, the first of each or all; with the names of the classes in the mask behind, where there is
    one and it is asked for.

    Raises:
        DataError: a set without any.
    """
    for folder in folders:
        assert labels is not None, "a pair set has a label space"
        rows = read_texts([folder]).to_pylist()
        if not any(map(captions_of, rows)):
            raise DataError(
                f"{folder}: none of its {len(rows):,} pairs has a caption; make them with jobs.caption first"
            )
        for row in rows:
            known = [one for one in row["class_ids"] if 1 <= one <= labels.num_classes]
            names = appended(known, labels) if append_classes else ""
            texts = captions_of(row)
            for text in (texts if all_of_them else texts[:1]) or [""]:
                is_appended = bool(names and text)
                prompt = f"{text}{names}" if is_appended else text
                # A picture without a mask asks for what its caption names.
                class_ids = known if row["class_ids"] else list(classes_in_prompt(text, labels))
                yield Asked(prompt, 1.0, class_ids, WITH_CLASSES if is_appended else "caption")


def appended(class_ids: Iterable[int], labels: LabelSpace) -> str:
    """What stands behind a caption where the classes of its mask are asked for too: "; person, bus"; "" for none."""
    names = ", ".join(spoken(labels.classes[one]) for one in class_ids)
    return f"; {names}" if names else ""


def from_templates(templates: Sequence[str], classes: Sequence[str], labels: LabelSpace | None) -> Iterator[Asked]:
    """Templates filled with `classes`, or with all but the background where none are named.

    Raises:
        ConfigError: a wrong template or class, or no label space.
    """
    if templates and labels is None:
        raise ConfigError("labels: templates need a label space: voc, coco, ..., a YAML file or the folder of a run")
    for template in templates:
        assert labels is not None
        places = {place for _, place in PLACE.findall(template)}
        if places not in ({"a"}, {"a", "b"}):
            raise ConfigError(
                f'templates: {template!r} should have the place {{a}}, or {{a}} and {{b}}: "a photo of a {{a}}"'
            )
        for class_ids in combinations(template_ids(classes, labels), len(places)):
            yield Asked(
                fill(template, [spoken(labels.classes[one]) for one in class_ids]), 1.0, list(class_ids), "template"
            )


def template_ids(classes: Sequence[str], labels: LabelSpace) -> list[int]:
    """Ids of the classes that templates are filled with, ascending; never 0."""
    known = {name: one for one, given in enumerate(labels.classes) if one for name in (given, spoken(given))}
    for name in classes:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(labels.classes[1:])}"
            raise ConfigError(f"template_classes: label space {labels.name!r} has no class {name!r}; {hint}")
    return sorted({known[name] for name in classes or known})


def fill(template: str, names: list[str]) -> str:
    """A template with names in the places {a} and {b}, each behind the right one of "a" and "an"."""

    def place(match: re.Match[str]) -> str:
        article, name = match[1], names["ab".index(match[2])]
        if not article:
            return name
        right = "an" if AN_SOUND.match(name) else "a"
        return f"{right.capitalize() if article[0] == 'A' else right} {name}"

    return PLACE.sub(place, template)


def from_file(file: str, labels: LabelSpace | None) -> Iterator[Asked]:
    """The user's own prompts; where their file does not say what they ask for, it is the classes that they name."""
    if not file:
        return
    found = read_prompts(file)
    if labels:
        check_class_ids(found, labels, file)
    for row in found.to_pylist():
        class_ids = row["class_ids"]
        if class_ids is None and labels:
            class_ids = list(classes_in_prompt(row["prompt"], labels))
        yield Asked(row["prompt"], row["weight"], class_ids, "file")


def of_few_objects(rows: Sequence[Asked], most: int, labels: LabelSpace | None) -> list[Asked]:
    """The prompts that ask for at most so many objects: those that they name, or the classes of a pair's mask where
    these are more; classes that stand behind a caption are no further ones. 0 takes all.

    Raises:
        ConfigError: no label space, or none is left.
    """
    if not most or not rows:
        return [*rows]
    if labels is None:
        raise ConfigError("most_objects: name the `labels` of the prompts, so that what they name can be counted")

    def objects(row: Asked) -> int:
        behind = appended(row.class_ids or (), labels) if row.kind == WITH_CLASSES else ""
        return max(objects_in_prompt(row.prompt.removesuffix(behind), labels), len(row.class_ids or ()))

    kept = [row for row in rows if objects(row) <= most]
    if not kept:
        raise ConfigError(
            f"most_objects: all {len(rows):,} prompts ask for more than {most}; raise it or add templates"
        )
    return kept


def without_empty(rows: Iterable[Asked]) -> tuple[list[Asked], int]:
    """The prompts that hold a text, without space around it, and how many do not."""
    found = [row._replace(prompt=row.prompt.strip()) for row in rows]
    kept = [row for row in found if row.prompt]
    return kept, len(found) - len(kept)


def add_up(rows: list[Asked]) -> pa.Table:
    """PLAN with every prompt once (`pipeline.prompts.read.distinct`); its kind is that of its first use."""
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), PLAN, strict=True)]
    kinds = {row.prompt: row.kind for row in reversed(rows)}
    found = distinct(pa.table(columns, schema=PLAN).select(PROMPTS.names))
    return found.append_column(PLAN.field("kind"), pa.array([kinds[text] for text in found["prompt"].to_pylist()]))
