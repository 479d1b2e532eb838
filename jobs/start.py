"""Begin with your own pictures: look at them, write the configs of the whole way, say what it takes."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import yaml
from pydantic import Field

from jobs import command
from jobs._machine import Here, Step, Way, here
from jobs._ways import steps_of
from models.labels import LabelSpace, voc_palette
from pipeline.base.command_line import load
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.datasets.guess import Guess, guess, values_in
from pipeline.datasets.labelme import JSON, labels_in
from pipeline.datasets.registry import open_source
from pipeline.datasets.source import PICTURES, RARER, files_below
from pipeline.ingest import IngestConfig, captioned_of, listed, look
from pipeline.pictures.mask_colours import SMOOTHED, TRANSPARENT, Colours, checked_colour, name_of
from pipeline.runs.config import checked_name
from pipeline.tables.label_space import named_labels

LABELS, COMMANDS = "labels.yaml", "README.md"
HELD_OUT = 50
"""Labelled pictures that are held out to choose on, and to test on, where there are enough."""
MOST_GAPS = 256
"""Ids that no mask has, up to which names are asked for."""
FEW = 200
"""Labelled pictures below which little can be learned."""


class StartConfig(Config):
    """Looks at your pictures and masks, writes the configs of all jobs from there to generated pairs, and says what
    they take. On a terminal it asks for what is not given."""

    root: str = ""
    """Folder with images/ and masks/, of labelme, or of YOLO (docs/data.md)."""
    images: str = ""
    """Folder of pictures, where it is called something else."""
    masks: str = ""
    """Folder of masks."""
    name: str = ""
    """What the data set and its runs are called; empty: as its folder."""
    labels: str = ""
    """Label space: voc, coco, ade20k, cityscapes, or a YAML file; empty: made of `classes`, or of labelme's labels and
    YOLO's names."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their ids, background first; for masks in colours each with its colour, such
    as 'road #804080'."""
    captions: str = ""
    """JSON file {name: text}; empty: captions are written by the way that is chosen."""
    out: str = ""
    """Folder for the configs; empty: configs/NAME."""
    overwrite: bool = False
    """Write over configs that are there."""
    runs: str = "runs"
    """Folder of runs, a path or a URL."""
    held_out: float = Field(0.0, ge=0, le=30)
    """Per cent of the pictures that are held out to choose on, and as many to test on, where the set has no splits; 0:
    as many as make 50 labelled ones of each, between 10 and 25."""
    way: Literal["auto", "weights", "small"] = "auto"
    """"weights": at 512 px from UniDiffuser's weights; "small": at 64 px from nothing; "auto": what fits the GPUs."""
    gpus: int = Field(-1, ge=-1)
    """GPUs to plan for; -1: those of this machine."""
    gpu_gib: float = Field(0.0, ge=0)
    """Memory of each; 0: as those of this machine, or 80."""
    tflops: float = Field(0.0, ge=0)
    """Floating-point operations, in 10^12, that one GPU, or this machine without one, does in a second in such
    trainings; 0: a third of what a product of matrices reaches here, or 40 for GPUs that are not here."""
    look: int = Field(16, ge=1)
    """Pairs on the page of what was understood."""


def main(config: StartConfig) -> None:
    if not (config.root or (config.images and config.masks)):
        config = asked(config)
    found = guess(config.root, config.images, config.masks)
    name = config.name or Path(found.root).resolve().name.lower().replace(" ", "-")
    try:
        checked_name(name)
    except ValueError as error:
        raise ConfigError(f"name: {error}; give another one by --name") from error
    out = Path(config.out or f"configs/{name}")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out: {out} is a file; name a folder")
    if out.is_dir() and any(one.name != LABELS for one in out.iterdir()) and not config.overwrite:
        raise ConfigError(f"{out} holds files already; say --out ANOTHER, or --overwrite True to write over them")
    log.info(
        "start: %s: %s pictures, %s with masks, as %s", found.root, f"{found.num_pictures:,}", f"{found.num_masks:,}",
        found.dataset,
    )  # fmt: skip
    labels, keys = label_space(config, found, name, out)
    ingests = ingests_of(config, found, name, labels, keys)
    for values in ingests.values():
        (one := IngestConfig.model_validate(values)).check_inputs()
        listed(open_source(one), one)  # none of them may be empty
    train = IngestConfig.model_validate({**ingests["train"], "look": config.look})
    page = look(train)
    plan = listed(open_source(train), train)
    num_labelled = min(found.num_masks, found.num_pictures)
    if num_labelled < FEW:
        log.warning(
            "start: %d labelled pictures are few: figures on %d held-out ones say little",
            num_labelled,
            num_labelled // 4,
        )
    machine = here(config.gpus, config.gpu_gib, config.tflops)
    way = steps_of(
        name, config.runs, ingests, machine, labels=labels or f"{config.runs}/{name}/label_space.json",
        num_pictures=found.num_pictures, num_labelled=num_labelled, way=config.way,
        has_captions=captioned_of(plan) == plan.num_rows,
    )  # fmt: skip
    write(way.steps, out)
    text = told(way, name, page, machine)
    (out / COMMANDS).write_text(commands(way, out, text), encoding="utf-8")
    sys.stdout.write(f"{commands(way, out, text)}\n")
    log.info("start: all of this is in %s", out / COMMANDS)


def asked(config: StartConfig) -> StartConfig:
    """What is missing, asked for on the terminal.

    Raises:
        ConfigError: there is none.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("root: give the folder of your pictures, such as --root data/mine (with images/ and masks/)")
    root = answer("Folder with images/ and masks/, of labelme or of YOLO (empty: I name both)")
    if root:
        return config.model_copy(update={"root": root})
    return config.model_copy(update={"images": answer("Folder of pictures"), "masks": answer("Folder of masks")})


def answer(question: str, default: str = "") -> str:
    try:
        return input(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
    except EOFError as error:
        raise ConfigError("start: no answer; give options instead (--help)") from error


def label_space(config: StartConfig, found: Guess, name: str, out: Path) -> tuple[str, dict[str, Any]]:
    """The label space for `ingest` and what else it must be told of masks; writes a file where one is made.

    Raises:
        ConfigError: says which values or colours the masks hold, and how to name them.
    """
    if found.dataset == "yolo" and not config.classes:
        return config.labels, {}
    # That of a first try was perhaps corrected since.
    there = config.labels or (str(out / LABELS) if not config.classes and (out / LABELS).is_file() else "")
    if there:
        return there, keys_of_masks(found, there)
    given = list(config.classes)
    if found.dataset == "labelme" and not given:
        outlines = files_below(found.root, suffixes=JSON, rarer=frozenset(), beside=PICTURES | RARER)
        given = ["background", *sorted(labels_in(outlines))]
    if found.dataset != "folder":
        return written(name, given, [], out), {}
    values, colours = values_in(found.root, found.keys["folder_layout"])
    if len(colours) > SMOOTHED and not given:
        raise ConfigError(f"{found.root}: in the masks {Colours().told(colours)}")
    if colours:
        given = given or asked_names(sorted(dict(colours.most_common()), key=lambda one: one != TRANSPARENT), "colour")
        names, palette = with_colours(given, colours)
        made = written(name, names, palette, out)
        return made, keys_of_masks(found, made)
    numbers = sorted(values)
    classes = [0, 255] if is_binary(values) else list(range(max((one for one in numbers if one != 255), default=0) + 1))
    if not given and len(classes) > 2 * len(numbers) + MOST_GAPS:
        raise ConfigError(
            f"classes: the masks hold the values {shown(numbers)}, which are no ids from 0 on; write a label space and "
            "say which class each value is by mask_values of jobs.ingest (docs/data.md), or name all to the highest"
        )
    given = given or asked_names([*map(str, classes)], "value")
    if len(given) < len(classes):
        raise ConfigError(f"classes: the masks hold the values {shown(numbers)}, but {len(given)} names are given")
    made = written(name, given, [], out)
    return made, keys_of_masks(found, made)


def keys_of_masks(found: Guess, labels: str) -> dict[str, Any]:
    """What `ingest` must be told of the masks of a folder beside a label space that is there: that 255 is its one class
    in masks of 0 and 255, or that background is transparent.

    Raises:
        ConfigError: no such label space.
    """
    if found.dataset != "folder":
        return {}
    try:
        known = named_labels(labels)
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from error
    values, colours = values_in(found.root, found.keys["folder_layout"])
    if TRANSPARENT in colours:
        return {"mask_colours": {TRANSPARENT: 0}}
    return {"mask_values": {255: 1}} if is_binary(values) and known.num_classes == 1 else {}


def is_binary(values: Mapping[int, int]) -> bool:
    """Whether masks hold 255 and nothing else but 0."""
    return set(values) <= {0, 255} and 255 in values


def asked_names(values: list[str], kind: str) -> list[str]:
    """Names for values or colours of masks, asked for on a terminal; without one, a ConfigError that shows them."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        ends = [f" {one}" if kind == "colour" else "" for one in values]
        example = " ".join(
            f"'{'background' if not number else f'NAME{number}'}{end}'" for number, end in enumerate(ends)
        )
        raise ConfigError(
            f"classes: the masks hold the {kind}s {shown(values)}; name each, background first: --classes {example}"
        )
    names = [answer(f"Name of {kind} {one}", "" if number else "background") for number, one in enumerate(values)]
    return [f"{name} {one}" if kind == "colour" else name for name, one in zip(names, values, strict=True)]


def with_colours(given: list[str], colours: Any) -> tuple[list[str], list[list[int]]]:
    """ "road #804080" -> names and colours; all colours of the masks must be named. What is transparent is background,
    whether it is named or not."""
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
    if missing := [f"{one} ({num:,} pixels)" for one, num in colours.most_common() if one not in {*known, TRANSPARENT}]:
        raise ConfigError(f"classes: the masks hold colours that are no class's: {shown(missing)}; name them too")
    if known[:1] == [TRANSPARENT]:  # a colour to draw it in
        known[0] = next(one for one in map(name_of, voc_palette(len(known))) if one not in known)
    return names, [list(bytes.fromhex(one[1:])) for one in known]


def shown(values: Any) -> str:
    texts = list(map(str, values))
    return ", ".join(texts[:32]) + (f" and {len(texts) - 32} more" if len(texts) > 32 else "")


def written(name: str, classes: list[str], palette: list[list[int]], out: Path) -> str:
    """Writes a label space; returns its path."""
    try:
        LabelSpace.custom(name, tuple(classes[1:]))
    except ValueError as error:
        raise ConfigError(f"classes: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    colours = palette or [list(colour) for colour in voc_palette(len(classes))]
    fields = {"name": name, "classes": classes} | ({"palette": colours} if palette else {})
    (out / LABELS).write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return str(out / LABELS)


def ingests_of(
    config: StartConfig, found: Guess, name: str, labels: str, keys: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Values of `ingest` for train, validation and test."""
    labelled = "all" if found.num_masks >= found.num_pictures or found.dataset == "yolo" else "some"
    common: dict[str, Any] = {
        "runs": config.runs, "dataset": found.dataset, "root": found.root, "name": name, "labels": labels,
        "captions": config.captions, **found.keys, **keys,
    }  # fmt: skip
    common = {key: value for key, value in common.items() if value}
    share = config.held_out or min(25, max(10, math.ceil(100 * HELD_OUT / max(1, found.num_masks))))
    stop = 100 - 2 * share
    only = found.splits[0] if found.splits else "train"
    places = {
        "train": (only, f"0:{stop:g}"),
        "validation": (only, f"{stop:g}:{stop + share:g}"),
        "test": (only, f"{stop + share:g}:100"),
    }
    if {"train", "val", "test"} <= set(found.splits):
        places = {"train": ("train", ""), "validation": ("val", ""), "test": ("test", "")}
    elif {"train", "val"} <= set(found.splits):  # what is held out is to choose on and to test on
        places = {"train": ("train", ""), "validation": ("val", "0:50"), "test": ("val", "50:100")}
    made: dict[str, dict[str, Any]] = {}
    for split, (part_of, part) in places.items():
        values = {"run": name if split == "train" else f"{name}-{split}", **common, "split": part_of}
        made[split] = {**values, **({"part": part} if part else {}), "labelled": labelled}
    return made


def write(steps: tuple[Step, ...], out: Path) -> None:
    """Writes the config of every step, and reads each again as its job would.

    Raises:
        ConfigError, DataError: as the job.
    """
    out.mkdir(parents=True, exist_ok=True)
    for step in steps:
        if step.values:
            text = yaml.safe_dump(step.values, sort_keys=False, allow_unicode=True, default_flow_style=None)
            (out / step.file).write_text(f"# {step.why}\n{text}", encoding="utf-8")
            load(step.kind, out / step.file)


def told(way: Way, name: str, page: str, machine: Here) -> str:
    """What is said of the whole way."""
    hours = [step for step in way.steps if step.hours is not None]
    lines = [
        f"# From the pictures of {name} to pairs",
        "",
        f"{way.why} Look at {page} first: are the classes where they should be?",
        "",
        f"For {machine}. About {sum(step.hours or 0 for step in hours):.1f} hours for the steps that are reckoned, "
        f"{way.disk_gib:.1f} GiB of disk for checkpoints, latents and pairs{way.further}. Hours are reckoned from the "
        f"operations of each network at {machine.tflops:.3g} TFLOP/s for each {machine.unit} ({machine.how}), not "
        "measured: reading, writing and waiting come on top.",
    ]
    return "\n".join(lines)


def commands(way: Way, out: Path, text: str) -> str:
    """The page of commands."""
    lines = [text]
    for step in way.steps:
        hours = "" if step.hours is None else f" ({step.hours:.1f} h)" if step.hours >= 0.05 else " (minutes)"
        config = f" {quote(str(out / step.file))}" if step.values else ""
        lines += ["", f"{step.why}{hours}:", "", f"    python -m jobs.{step.job}{config}{step.arguments}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command(main, StartConfig)
