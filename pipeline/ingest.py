"""Ingest: a real data set -> PAIR shards, the same table that the generator writes."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from pydantic import Field

from models.labels import LabelSpace
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import kept_warnings, log
from pipeline.cluster.drive import Left, drive
from pipeline.cluster.finish import finish
from pipeline.cluster.processes import Stage, in_processes
from pipeline.cluster.progress import Shared
from pipeline.cluster.tasks import beside_driver, get
from pipeline.datasets.hugging_face import commit_of
from pipeline.datasets.parts import of_part, some_of
from pipeline.datasets.registry import DATASETS, SourceConfig, open_source
from pipeline.datasets.source import Source
from pipeline.pages.look_page import classes_seen, render
from pipeline.pictures.mask_colours import ColourError
from pipeline.pictures.photograph import Transparency
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.stages.read import ReadPairs, Void
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import real_pair_id
from pipeline.tables.label_space import LABELS
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import left_out, remaining
from pipeline.tables.schema import Batch
from pipeline.tables.shards import remove_drafts

SAFE_TO_CHANGE = frozenset(
    {"root", "sbd", "revision", "pairs", "rows_per_shard", "retry_errors", "log_every_s", "look"}
)
ROWS_PER_BATCH = 64
NUM_SHOWN = 5
"""Failed pairs that are named at the end."""
LOOK = "look.html"
"""File in a run's folder."""
NUM_TRIED = 16
"""Pairs that are read before all others: a wrong root or palette should be told at once, not in every row."""

MUCH_VOID = 0.6
"""Share of pixels without a class above which masks are doubted: borders and what is not evaluated are far less."""


class IngestConfig(RunConfig, SourceConfig):
    """Reads one split of a real data set into PAIR shards."""

    origin: Literal["real", "synthetic"] = "real"
    """What the pairs are: "synthetic" for those of another generator."""
    void: Void = "ignore"
    """What pixels of unknown class become: the ignore index, or background as in the paper's code."""
    exif: Literal["upright", "stored"] = "upright"
    """What the masks of rotated pictures were drawn on, where they fit both: on the picture as viewers turn it, or as
    it is stored."""
    transparency: Transparency = "white"
    """What becomes of pictures that are transparent somewhere: they are laid on "white", or, with "refuse", are
    errors."""
    rows_per_shard: int = Field(512, ge=1)
    """Pairs per Parquet file."""
    look: int = Field(0, ge=0)
    """Read so many pairs alone, and write <run>/look.html: pictures with their masks over them, and what the classes
    are. All others are read by the same command without it."""
    retry_errors: bool = False
    """Read again what failed in an earlier start of this run."""
    workers: Workers = Workers(num=2)
    """Reading processes."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines, and between points in MLflow."""

    def check_inputs(self) -> None:
        open_source(self, self.seed)  # reads nothing yet
        super().check_inputs()


def ingest(config: IngestConfig) -> Manifest:
    """Writes what `config.run` does not hold yet; returns what it holds then.

    Raises:
        ConfigError, DataError: each says what is wrong, where, and how to correct it. Single pairs that cannot be read
            are rows in errors/ instead.
        Stopped: SIGINT; what had begun is written.
    """
    commit = commit_of(config.root, config.revision) if config.on_hub else ""
    source = open_source(config, config.seed, commit)
    facts = {"commit": commit, "with_sbd": str(bool(config.sbd))}
    with Run.open(config, "ingest", SAFE_TO_CHANGE, facts, on_store=True) as run:
        folder = str(run.folder)
        remove_drafts(folder)

        def find(config: IngestConfig) -> tuple[Left, int, int, LabelSpace, list[str]]:
            # Lists of a large data set take gigabytes; a task gives them back.
            todo, counted = beside_driver(find_todo, num_returns=2).remote(source, config, folder)
            num, planned, captioned, labels, warnings = get(counted)
            rows = partial(ray.data.from_arrow_refs, [todo])
            stage = reading_stage(source, labels, config)
            return (
                Left(num, lambda shared: graph(rows(), stage, config.workers, shared)),
                planned,
                captioned,
                labels,
                warnings,
            )

        left, planned, captioned, labels, warnings = find(config)
        for warning in warnings:
            log.warning("ingest: %s", warning)
        write_bytes(f"{folder}/{LABELS}", labels.to_json().encode())
        told = [f"{labels.num_classes} classes", *([f"{captioned:,} have captions"] if captioned else [])]
        if config.void != "ignore":
            told.append("pixels of unknown class become background")
        part = f", part {config.part}" if config.part else ""
        log.info(
            "ingest: reading %s of %s pairs of %s/%s%s: %s",
            f"{left.num:,}", f"{planned:,}", config.dataset_name, config.split, part, ", ".join(told),
        )  # fmt: skip
        drive(
            run,
            "ingest",
            left,
            lambda: find(config.model_copy(update={"retry_errors": False}))[0],
            planned=planned,
            stages={"read": config.workers.num},
            workers=config.workers,
            rows_per_shard=config.rows_per_shard,
            every_s=config.log_every_s,
        )
        manifest = finish(run)
        say_what_is_wrong(manifest, labels, folder)
        return manifest


def look(config: IngestConfig) -> tuple[str, float]:
    """Reads `config.look` pairs, most of them with masks, and writes the page of what was understood; returns its path,
    and the bytes that a pair takes in a shard. Needs no Ray, and leaves no run.

    Raises:
        ConfigError, DataError: as `ingest`.
    """
    commit = commit_of(config.root, config.revision) if config.on_hub else ""
    source = open_source(config, config.seed, commit)
    plan = listed(source, config)
    chosen, labels = some_of(plan, config.look), source.labels
    columns = reading_stage(source, labels, config)(batch_of(chosen))
    found = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    rows = [{**row, "pair_id": row["key"]} for row in found if not row["error"]]
    colours, coloured = unknown_colours(source, chosen)
    failed = [row for row in found if row["error"]]
    errors = [colours] * bool(colours) + [row["error_detail"] for row in failed if row["key"] not in coloured]
    seen = classes_seen(rows, labels)
    unlabelled = sum(not row["mask"] for row in rows)
    sizes = Counter(f"{row['width']} x {row['height']}" for row in rows)
    facts = {
        "read": f"{len(rows)} of {plan.num_rows:,} pairs" + (f"; {len(failed)} could not be" if failed else ""),
        "without a mask": f"{unlabelled:,}",
        "width x height": ", ".join(f"{size} ({num})" for size, num in sizes.most_common(5)),
        "with captions": f"{captioned_of(plan):,} of all",
    }
    for name, text in facts.items():
        log.info("ingest: %s: %s", name, text)
    for one in seen:
        if one.pictures:
            log.info(
                "ingest: class %d, %s: %.1f %% of pixels, %d pictures", one.id, one.name, 100 * one.share, one.pictures
            )
    for error in errors[:NUM_SHOWN]:
        log.warning("ingest: %s", error)
    path = f"{config.folder}/{LOOK}"
    write_bytes(path, render(f"{config.dataset_name}/{config.split}", rows, errors, labels, facts).encode())
    log.info("ingest: look at %s", path)
    return path, float(np.mean([len(row["image"]) + len(row["mask"]) for row in rows])) if rows else 0.0


def graph(work: ray.data.Dataset, stage: ReadPairs, workers: Workers, shared: Shared) -> ray.data.Dataset:
    """Rows of work -> packed pairs."""
    rows = work.repartition(target_num_rows_per_block=ROWS_PER_BATCH)
    return in_processes(rows, "read", partial(same, stage), shared, workers, batch_size=ROWS_PER_BATCH)


def same(stage: ReadPairs) -> Stage:
    """A stage that is small enough to travel as it is."""
    return stage


def find_todo(
    source: Source, config: IngestConfig, folder: str
) -> tuple[pa.Table, tuple[int, int, int, LabelSpace, list[str]]]:
    """Entries (with `pair_id`) that the run does not hold; their number, that of all planned ones and of
    those with captions, the label space, and what is to be told of the data.

    Raises:
        DataError: nothing to read, or none of the first pairs can be read.
    """
    with kept_warnings() as warnings:
        plan = listed(source, config)
        todo = remaining(plan, folder, config.retry_errors)
        try_some(todo, todo.num_rows == plan.num_rows, source, config)
    return todo, (todo.num_rows, plan.num_rows, captioned_of(plan), source.labels, warnings)


def listed(source: Source, config: IngestConfig) -> pa.Table:
    """The entries that are wanted, with `pair_id`.

    Raises:
        DataError: nothing to read, or captions of other pictures.
    """
    entries = source.entries()
    plan = plan_of(entries, source.labels, config)
    if not plan.num_rows:
        part = f", or so few that none falls into the part {config.part}" if config.part else ""
        raise DataError(f"{config.root}: no pairs in the split {config.split!r}{part}; check `root` and `split`")
    if config.captions and not captioned_of(entries):  # those of a part alone may have none
        raise DataError(
            f"{config.captions}: none of its names belongs to a picture of the split {config.split!r} (named like "
            f"{plan['key'][0].as_py()}); correct `captions`, or leave it out for this split"
        )
    return plan


def captioned_of(plan: pa.Table) -> int:
    """How many entries have captions."""
    return pc.sum(pc.greater(pc.list_value_length(plan["captions"]), 0)).as_py() or 0


def batch_of(entries: pa.Table) -> Batch:
    """Entries as a stage takes them."""
    return {name: np.array([*entries[name].to_pylist(), None], object)[:-1] for name in entries.column_names}


def unknown_colours(source: Source, entries: pa.Table) -> tuple[str, set[str]]:
    """What is to be said of all colours in the masks of some entries that are no class's, and the keys of those; ""
    where there are none."""
    counts: Counter[str] = Counter()
    found: dict[str, ColourError] = {}
    for entry in entries.to_pylist():
        try:
            source.read(entry)
        except ColourError as error:
            found[entry["key"]] = error
            counts.update(error.counts)
        except DataError:
            continue  # told by whoever reads it
    if not found:
        return "", set()
    told = next(iter(found.values())).colours.told(counts)
    return f"in {len(found)} of {entries.num_rows} masks that were tried, {told}", set(found)


def try_some(todo: pa.Table, is_all: bool, source: Source, config: IngestConfig) -> None:
    """Reads some pairs of a run; warns where they are mostly void, or have colours that are no class's.

    Raises:
        DataError: none of them can be read, and they stand for all pairs (`is_all`).
    """
    tried = some_of(todo, NUM_TRIED)
    if not tried.num_rows:
        return
    rows = reading_stage(source, source.labels, config.model_copy(update={"void": "ignore"}))(batch_of(tried))
    colours = unknown_colours(source, tried)[0] if any(rows["error"]) else ""
    if all(rows["error"]) and is_all:
        why = colours or rows["error_detail"][0]
        raise DataError(f"none of {tried.num_rows} pairs that were tried first can be read. {why}")
    if colours:
        log.warning("%s", colours)
    ids, areas = (np.concatenate(list(rows[name])) for name in ("class_ids", "class_pixels"))
    void = areas[ids == source.labels.ignore_index].sum() / max(areas.sum(), 1)
    if void > MUCH_VOID:
        hint = DATASETS[config.dataset].if_void
        log.warning(
            "%.0f %% of the pixels of the pairs that were tried first are void (%d), and trainings skip those%s",
            100 * void, source.labels.ignore_index, hint and f"; {hint}",
        )  # fmt: skip


def reading_stage(source: Source, labels: LabelSpace, config: IngestConfig) -> ReadPairs:
    """The stage that reads, as configured."""
    origin, as_stored = config.origin, config.exif == "stored"
    return ReadPairs(
        source, labels, config.dataset_name, config.split, origin, config.void, as_stored, config.transparency
    )


def plan_of(entries: pa.Table, labels: LabelSpace, config: IngestConfig) -> pa.Table:
    """The entries that are wanted, with `pair_id`: of the data set and the key, and of the split where keys may come
    again in another one."""
    name = config.dataset_name
    if config.part and DATASETS[config.dataset].is_made:
        raise ConfigError("part: built-in sets have splits; choose one by `split`")
    entries = of_part(entries, config.part, config.part_of)
    if config.dataset == "coco" and labels.name != "coco" and not config.name:
        raise ConfigError("name: these annotations are not COCO's, so give the data set a name of its own")
    known = DATASETS[config.dataset]
    if config.dataset == "huggingface" and config.columns.subset and not config.name:
        name += f"/{config.columns.subset}"  # rows are known by their numbers, from 0 in each subset
    if known.is_made:
        name += f"/{config.split}/{config.seed}/{config.size_px}"
        name += f"/{config.rarest:g}" if config.rarest != 1 else ""
        name += f"/unnamed {config.unnamed:g}" if config.unnamed else ""
    elif not known.has_unique_keys or (config.dataset == "coco" and labels.name != "coco"):
        name += f"/{config.split}"
    plan = entries.add_column(0, "pair_id", pa.array([real_pair_id(name, key) for key in entries["key"].to_pylist()]))
    if len(pc.unique(plan["key"])) < plan.num_rows:
        doubled = plan["key"].value_counts().filter(pc.greater(plan["key"].value_counts().field("counts"), 1))
        raise DataError(f"{config.root}: two pairs are called {doubled[0]['values']}; rename one")
    if config.pairs and not known.is_made:
        plan = plan.sort_by("pair_id").slice(0, config.pairs)  # any number of them is a fair sample
    return plan


def say_what_is_wrong(manifest: Manifest, labels: LabelSpace, folder: str) -> None:
    """Shows some rows that failed, and masks that teach nothing."""
    left = left_out(folder) if manifest.num_errors else {}
    for detail in list(left.values())[:NUM_SHOWN]:
        log.warning("ingest: left out: %s", detail)
    if left:
        more = f"and {len(left) - NUM_SHOWN:,} more; " if len(left) > NUM_SHOWN else ""
        log.warning("ingest: %sall are in %s/errors; --retry-errors True reads them again when corrected", more, folder)
    if manifest.num_errors > manifest.num_pairs:
        log.warning("ingest: more pairs failed than were read; do `labels` and `root` belong to this data set?")
    if manifest.num_unlabelled:
        log.info("ingest: %s of %s pictures have no mask", f"{manifest.num_unlabelled:,}", f"{manifest.num_pairs:,}")
    if manifest.num_pairs > manifest.num_unlabelled and not set(manifest.classes) - {0, labels.ignore_index}:
        log.warning(
            "ingest: the masks hold nothing but %s; if 255 is a class here, say --mask-values 255 1",
            " and ".join(map(str, manifest.classes)),
        )
