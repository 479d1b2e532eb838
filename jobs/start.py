"""Begin with your own pictures: look at them, write the configs of the whole way, say what it takes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import Field

from jobs import command
from jobs._classes import LABELS, ClassKeys, answer, is_asked, label_space
from jobs._machine import Here, Step, Way, here
from jobs._ways import steps_of
from models.labels import LabelSpace
from pipeline.base.command_line import load
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import each_once, log
from pipeline.base.places import is_seen_by_all
from pipeline.datasets.guess import Guess, guess
from pipeline.datasets.parts import num_labelled
from pipeline.datasets.regions import Overlap
from pipeline.datasets.registry import open_source
from pipeline.ingest import IngestConfig, captioned_of, listed, look
from pipeline.pictures.photograph import Transparency
from pipeline.prompts.classes import never_named
from pipeline.runs.config import checked_name
from pipeline.stages.read import Void
from pipeline.training.order import LEAST_HELD_OUT

COMMANDS = "README.md"
READ_AS = ("overlap", "void", "exif", "transparency")
"""Keys of `ingest` that are handed on."""
HELD_OUT = 50
"""Labelled pictures that are held out to choose on, and to test on, where there are enough."""
FEW = 200
"""Labelled pictures below which little can be learned."""


FLOOR = ", and of small networks from what a GPU waits for its host"
CLUSTER = (
    "On a cluster write `python -m jobs.submit JOB` for `python -m jobs.JOB` (docs/cluster.md). Configs are sent with "
    "a job where they lie under `jobs/` of the checkout (`--out jobs/configs/NAME`). `import_weights` runs here, and "
    "`ingest` too, unless pictures, captions and labels.yaml have URLs or paths that all machines see; both write "
    "where the runs are."
)


class StartConfig(ClassKeys):
    """Looks at your pictures and masks, writes the configs of all jobs from there to generated pairs, and says what
    they take. On a terminal it asks for what is not given."""

    root: str = ""
    """Folder with images/ and masks/, of labelme, or of YOLO (docs/data.md)."""
    images: str = ""
    """Folder of pictures, where it is called something else."""
    masks: str = ""
    """Folder of masks."""
    image_suffix: str = ""
    """What the name of a picture ends with and its mask's does not, before the dot, such as "_image"."""
    mask_suffix: str = ""
    """What the name of a mask ends with and its picture's does not; empty: what most have, such as "_mask"."""
    name: str = ""
    """What the data set and its runs are called; empty: as its folder."""
    overlap: Overlap = "file"
    """Which object of labelme or YOLO is on top (as of jobs.ingest)."""
    void: Void = "ignore"
    """What pixels of unknown class become (as of jobs.ingest)."""
    exif: Literal["upright", "stored"] = "upright"
    """What the masks of rotated pictures were drawn on (as of jobs.ingest)."""
    transparency: Transparency = "white"
    """What becomes of pictures that are transparent somewhere (as of jobs.ingest)."""
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
    with each_once():  # files are listed several times
        start(config)


def start(config: StartConfig) -> None:
    """Looks, writes and says what was written.

    Raises:
        ConfigError, DataError: each says what is wrong, where, and how to correct it.
    """
    found = guess(config.root, config.images, config.masks, config.image_suffix, config.mask_suffix)
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
    is_new = not (out / LABELS).is_file()
    try:
        write_way(config, found, name, out)
    except BaseException:
        if is_new:  # without what was answered of values and colours of masks it would mean something else
            (out / LABELS).unlink(missing_ok=True)
        raise


def write_way(config: StartConfig, found: Guess, name: str, out: Path) -> None:
    """Writes the label space, the configs of all steps and their commands, and tells them."""
    labels, keys = label_space(config, found, name, out)
    ingests = ingests_of(config, found, name, labels, keys)
    plans = {split: planned(values, split) for split, values in ingests.items()}  # none of them may be empty
    tell_few({split: num_labelled(plan) for split, plan in plans.items()})
    page, row_bytes = look(IngestConfig.model_validate({**ingests["train"], "look": config.look}))
    tell_unnamed(plans["train"], open_source(IngestConfig.model_validate(ingests["train"])).labels)
    machine = here(config.gpus, config.gpu_gib, config.tflops)
    way = steps_of(
        name, config.runs, ingests, machine, labels=labels or f"{config.runs}/{name}/label_space.json",
        num_pictures=found.num_pictures, num_labelled=found.num_masks, way=config.way, row_bytes=row_bytes,
        has_captions=all(captioned_of(plans[one]) == plans[one].num_rows for one in ("train", "validation")),
    )  # fmt: skip
    write(way.steps, out)
    text = commands(way, out, told(way, name, page, machine, config.runs))
    (out / COMMANDS).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{text}\n")
    log.info("start: all of this is in %s", out / COMMANDS)


def planned(values: dict[str, Any], split: str) -> pa.Table:
    """What an ingest would read. Captions go from its values where they are of pictures of other splits alone: those of
    the pictures to train on are enough."""
    config = IngestConfig.model_validate(values)
    config.check_inputs()
    source = open_source(config)
    if split != "train" and config.captions and not captioned_of(source.entries()):
        del values["captions"]
        return planned(values, split)
    return listed(source, config)


def tell_few(labelled: Mapping[str, int]) -> None:
    """Says where there are few masks, by part.

    Raises:
        DataError: a part has none.
    """
    told = f"{labelled['train']} to train on, {labelled['validation']} to choose on, {labelled['test']} to test on"
    if bare := [part for part, num in labelled.items() if not num]:
        raise DataError(
            f"no mask falls into the part for {' and '.join(bare)} (labelled pictures: {told}); label more pictures, "
            "or hold out another share by --held-out"
        )
    held_out = min(labelled["validation"], labelled["test"])
    if sum(labelled.values()) < FEW or held_out < LEAST_HELD_OUT:
        log.warning(
            "start: labelled pictures are few: %s; figures on fewer than %d say little, on one or two nothing", told,
            LEAST_HELD_OUT,
        )  # fmt: skip


def tell_unnamed(plan: pa.Table, labels: LabelSpace) -> None:
    """Warns of classes that no caption names, where there are captions."""
    texts = pc.list_flatten(plan["captions"]).unique().to_pylist()
    if texts and (names := never_named(texts, labels)):
        log.warning("start: %s", names)


def asked(config: StartConfig) -> StartConfig:
    """What is missing, asked for on the terminal.

    Raises:
        ConfigError: there is none.
    """
    if not is_asked():
        raise ConfigError("root: give the folder of your pictures, such as --root data/mine (with images/ and masks/)")
    root = answer("Folder with images/ and masks/, of labelme or of YOLO (empty: I name both)")
    if root:
        return config.model_copy(update={"root": root})
    folders = {
        key: answer(f"Folder of {name}", needed=True) for key, name in (("images", "pictures"), ("masks", "masks"))
    }
    return config.model_copy(update=folders)


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
    defaults = StartConfig.model_fields
    common |= {key: value for key in READ_AS if (value := getattr(config, key)) != defaults[key].default}
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
        if part:
            values |= {"part": part} | ({"part_of": "labelled"} if labelled == "some" else {})
        made[split] = {**values, "labelled": labelled}
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


def told(way: Way, name: str, page: str, machine: Here, runs: str) -> str:
    """What is said of the whole way."""
    hours = [step for step in way.steps if step.hours is not None]
    others = dict.fromkeys(step.job for step in way.steps if step.hours is None)
    lines = [
        f"# From the pictures of {name} to pairs",
        "",
        f"{way.why} Look at {page} first: are the classes where they should be?",
        "",
        f"For {machine}. At most about {sum(step.hours or 0 for step in hours):.1f} hours for the steps that are "
        f"reckoned (all but {', '.join(others)}), {way.disk_gib:.1f} GiB of disk for pictures, checkpoints, latents "
        f"and pairs{way.further}. Hours are reckoned from the operations of each network at {machine.tflops:.3g} "
        f"TFLOP/s for {machine.each} ({machine.how}){FLOOR * bool(machine.gpus)}, not measured: "
        "reading, writing and waiting come on top.",
    ]
    if is_seen_by_all(runs):
        lines += ["", CLUSTER]
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
