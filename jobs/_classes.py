"""The classes of one's own masks: a label space that is there, made or asked for, and what `ingest` must be told."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from models.labels import LabelSpace, voc_palette
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.datasets.guess import Guess, values_in
from pipeline.datasets.labelme import JSON, labels_in
from pipeline.datasets.source import PICTURES, RARER, files_below
from pipeline.pictures.mask_colours import SMOOTHED, TRANSPARENT, Colours, MaskKind, checked_colour, name_of
from pipeline.storage.labels import named_labels

LABELS = "labels.yaml"
VOID = 255


class ClassKeys(Config):
    """What is said of the classes."""

    labels: str = ""
    """Label space: voc, coco, ade20k, cityscapes, or a YAML file; empty: made of `classes`, or of labelme's labels and
    YOLO's names."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their ids, background first; for masks in colours each with its colour, such
    as 'road #804080'."""
    mask_values: dict[int, int] = Field(default_factory=dict)
    """Raw value in the masks -> class id, such as 85 1 170 2; values that are not named stay (as of jobs.ingest)."""
    mask_colours: dict[str, int] = Field(default_factory=dict)
    """Colour in the masks -> class id, or 255 for what nobody knows, beside those of `classes` (as of jobs.ingest)."""
    mask_kind: MaskKind = "auto"
    """What the pixels of masks are, "ids" or "colours", where three channels do not say it (as of jobs.ingest)."""


def label_space(config: ClassKeys, found: Guess, name: str, out: Path) -> tuple[str, dict[str, Any]]:
    """The label space for `ingest` and what else it must be told of masks; writes a file where one is made.

    Raises:
        ConfigError: says which values or colours the masks hold, and how to name them.
    """
    keys: dict[str, Any] = {
        "mask_values": config.mask_values, "mask_colours": config.mask_colours,
        "mask_kind": "" if config.mask_kind == "auto" else config.mask_kind,
    }  # fmt: skip
    if found.dataset == "yolo" and not config.classes:
        return config.labels, keys
    # That of a first try was perhaps corrected since.
    there = config.labels or (str(out / LABELS) if not config.classes and (out / LABELS).is_file() else "")
    if found.dataset != "folder":
        given = list(config.classes)
        if found.dataset == "labelme" and not given and not there:
            outlines = files_below(found.root, suffixes=JSON, rarer=frozenset(), beside=PICTURES | RARER)
            given = ["background", *sorted(labels_in(outlines))]
        return there or written(name, given, [], out), keys
    values, colours = values_in(found.root, found.keys["folder_layout"], config.mask_kind)
    if TRANSPARENT in colours:
        keys["mask_colours"] = {TRANSPARENT: 0} | config.mask_colours
    names: list[str] = []
    palette: list[list[int]] = []
    if not there and colours:
        names, palette, others = named_by_colour(
            config, colours, f"{found.root}/{found.keys['folder_layout']['masks']}"
        )
        keys["mask_colours"] = keys["mask_colours"] | others
    elif not there:
        names, by_value = named_by_value(config, values)
        keys["mask_values"] = by_value
    there = there or written(name, names, palette, out)
    try:
        is_one_class = named_labels(there).num_classes == 1
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from error
    if is_one_class and is_binary(values) and not config.mask_values:
        keys["mask_values"] = {VOID: 1}
    return there, keys


def is_binary(values: Mapping[int, int]) -> bool:
    """Whether masks hold 255 and nothing else but 0."""
    return set(values) <= {0, VOID} and VOID in values


def named_by_value(config: ClassKeys, values: Mapping[int, int]) -> tuple[list[str], dict[int, int]]:
    """Names of the classes in masks of numbers, and which class each raw value is."""
    by_value = dict(config.mask_values)
    ids = sorted({by_value.get(value, value) for value in values} - {VOID})
    all_ids = [0, VOID] if is_binary(values) and not by_value else list(range(max(ids, default=0) + 1))
    given = list(config.classes)
    if not given and len(all_ids) > 2 * max(len(ids), 1):
        raw = [value for value in sorted(values) if value != VOID]
        if not is_asked():
            example = " ".join(f"{value} {number}" for number, value in enumerate(raw))
            unknown = f" ({VOID} is unknown then)" if VOID in values else ""
            raise ConfigError(
                f"classes: the masks hold the values {shown(sorted(values))}, which are no ids from 0 on. Say which "
                f"class each is: --mask-values {example} --classes {example_of([''] * len(raw))}"
                f"{unknown}; if they are ids and few are seen, name all to the highest by --classes, or give --labels"
            )
        given = asked_names([*map(str, raw)], "value")
        return given, {value: number for number, value in enumerate(raw)}
    given = given or asked_names([*map(str, all_ids)], "value")
    if len(given) < len(all_ids):
        told = f", by mask_values the classes {shown(ids)}" if by_value else ""
        raise ConfigError(
            f"classes: the masks hold the values {shown(sorted(values))}{told}, but {len(given)} names are given; name "
            "more, or say by --mask-values which class each value is"
        )
    return given, by_value


def named_by_colour(
    config: ClassKeys, colours: Counter[str], folder: str
) -> tuple[list[str], list[list[int]], dict[str, int]]:
    """Names, palette (RGB) and colours that are no palette's (transparent ones) of the classes in masks of colours. All
    colours must be named or in `mask_colours`; what is transparent is background, whether it is named or not."""
    given = list(config.classes)
    try:
        settled = {TRANSPARENT, *map(checked_colour, config.mask_colours)}
    except ValueError as error:
        raise ConfigError(f"mask_colours: {error}") from error
    if not given and len(colours) > SMOOTHED:
        raise ConfigError(f"{folder}: in the masks {Colours().told(colours)}")
    if not given:
        open_ = [one for one, _ in colours.most_common() if one not in settled - {TRANSPARENT}]
        given = asked_names(sorted(open_, key=lambda one: one != TRANSPARENT), "colour", colours)
    names: list[str] = []
    known: list[str] = []
    for text in given:
        name, _, colour = text.rpartition(" ")
        try:
            known.append(checked_colour(colour))
        except ValueError as error:
            raise ConfigError(
                f"classes: the masks are in colours ({shown([one for one, _ in colours.most_common()])}), so give each "
                f"name with one, such as 'road #804080', not {text!r}"
            ) from error
        names.append(name)
    if twice := [one for one, num in Counter(known).items() if num > 1]:
        raise ConfigError(f"classes: {shown(twice)} is the colour of two classes; masks cannot tell them apart")
    if TRANSPARENT in known[1:]:
        raise ConfigError("classes: what is transparent is the background; name it first")
    missing = [f"{one} ({num:,} pixels)" for one, num in colours.most_common() if one not in {*known, *settled}]
    if missing:
        raise ConfigError(
            f"classes: the masks hold colours that are no class's: {shown(missing)}; name them too, or say "
            f"--mask-colours '{missing[0].partition(' ')[0]}' {VOID} where nobody knows what it shows"
        )
    opaque = [one for one in known if len(one) == len("#rrggbb")]
    spare = (one for one in map(name_of, voc_palette(256)) if one not in opaque)
    drawn = [one if one in opaque else next(spare) for one in known]
    others = {one: class_id for class_id, one in enumerate(known) if one not in opaque}
    return names, [list(bytes.fromhex(one[1:])) for one in drawn], others


def asked_names(values: Sequence[str], kind: str, pixels: Mapping[str, int] | None = None) -> list[str]:
    """Names for values or colours of masks, asked for on a terminal; without one, a ConfigError that shows them."""
    total = sum((pixels or {}).values())
    notes = {one: f" ({100 * pixels[one] / total:.1f} %)" if pixels else "" for one in values}
    if not is_asked():
        are_grey = pixels and all(one[1:3] == one[3:5] == one[5:] for one in pixels)
        hint = "; if these greys are class ids, say --mask-kind ids" if are_grey else ""
        raise ConfigError(
            f"classes: the masks hold the {kind}s {shown([f'{one}{note}' for one, note in notes.items()])}; name each, "
            f"background first: --classes {example_of(values if kind == 'colour' else [''] * len(values))}{hint}"
        )
    names = [
        answer(f"Name of {kind} {one}{note}", "" if number else "background", needed=True)
        for number, (one, note) in enumerate(notes.items())
    ]
    return [f"{name} {one}" if kind == "colour" else name for name, one in zip(names, values, strict=True)]


def example_of(ends: Sequence[str]) -> str:
    """Names to be corrected, each with its end, as a command line takes them."""
    names = (f"NAME{number}" if number else "background" for number in range(len(ends)))
    return " ".join(f"'{name} {end}'" if end else f"'{name}'" for name, end in zip(names, ends, strict=True))


def is_asked() -> bool:
    """Whether there is a terminal to ask on."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def answer(question: str, default: str = "", needed: bool = False) -> str:
    """What is answered on the terminal; where it is needed, it is asked for until there is something.

    Raises:
        ConfigError: nothing is.
    """
    try:
        while not (given := input(f"{question}{f' [{default}]' if default else ''}: ").strip() or default) and needed:
            pass
    except EOFError as error:
        raise ConfigError("start: no answer; give options instead (--help)") from error
    return given


def shown(values: Sequence[object]) -> str:
    texts = list(map(str, values))
    return ", ".join(texts[:32]) + (f" and {len(texts) - 32} more" if len(texts) > 32 else "")


def written(name: str, classes: list[str], palette: list[list[int]], out: Path) -> str:
    """Writes a label space; returns its path."""
    try:
        LabelSpace.custom(name, tuple(classes[1:]))
    except ValueError as error:
        raise ConfigError(f"classes: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    fields = {"name": name, "classes": classes} | ({"palette": palette} if palette else {})
    (out / LABELS).write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), encoding="utf-8")
    log.info("start: the classes are in %s", out / LABELS)
    return str(out / LABELS)
