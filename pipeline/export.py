"""Export: sets of pairs as the folders and files that trainers read."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path

from pydantic import Field

from models.labels import LabelSpace
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError, Stopped
from pipeline.base.log import clock, log
from pipeline.base.places import Folder
from pipeline.cluster.connection import require
from pipeline.cluster.tasks import in_tasks
from pipeline.cluster.watch import stoppable
from pipeline.formats.part import Format, ImageChoice, Part, Records, Saved, Tree, all_jpeg, summaries, write_part
from pipeline.formats.parts import parts_of
from pipeline.formats.registry import FORMATS, FormatName
from pipeline.formats.tally import Tally
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.storage.files import is_file, is_local
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import text_digest
from pipeline.tables.label_space import common_labels
from pipeline.tables.selection import view_of
from pipeline.tables.shards import map_shards, some_shards

SECONDS_BETWEEN_LINES = 10.0
MAX_NAMED = 100
"""Of pairs that were left out, on the terminal."""


class ExportConfig(RunConfig):
    """Writes sets of pairs as a tree of files that trainers read, into <run>/export."""

    format: FormatName
    """"huggingface": Parquet and a card for `load_dataset` and the Hub; "mmseg": the folders of Pascal VOC with configs
    for MMSegmentation; "coco": panoptic, instance and caption annotations; "webdataset": tar files; "mds": shards for
    MosaicML's streaming (docs/export.md says how to install it)."""
    train: tuple[Folder, ...] = ()
    """Folders of runs, paths or URLs, that make up the split; several count as one set. Give at least one split."""
    validation: tuple[Folder, ...] = ()
    """The same for validation."""
    test: tuple[Folder, ...] = ()
    """The same for testing."""
    name: str = ""
    """Title of the set; empty takes the name of the run."""
    image_format: ImageChoice = "keep"
    """"keep" leaves pictures as they are; for mmseg, whose pictures share one suffix, it is "png" unless all are JPEG.
    "jpeg" keeps the bytes of those that are so, and encodes others at quality 95 in 4:4:4."""
    ignore_below: float = Field(0, ge=0, le=1)
    """Pixels of generated pairs whose confidence is below become the ignore index; needs pairs with confidence maps."""
    ignore_noisy: Folder = ""
    """Folder of a run of scores of the kind judge: pixels of generated pairs, and of a teacher's, that its `noise_map`
    marks become the ignore index. The judge must have seen the pairs at their own size."""
    min_confidence: float = Field(0, ge=0, le=1)
    """Leaves out generated pairs whose mean confidence is below."""
    pairs: int = Field(0, ge=0)
    """Pairs of each split at most, chosen by their ids, so that they are the same whatever shards they lie in; 0 takes
    all."""
    workers: Workers = Workers(num=2)
    """Writing processes."""

    def check_inputs(self) -> None:
        super().check_inputs()
        if all(is_local(folder) for some in self.folders().values() for folder in some):
            self.common_labels()

    def common_labels(self) -> LabelSpace:
        """The label space of all splits.

        Raises:
            ConfigError: no split.
            DataError: label spaces that differ.
        """
        if not (folders := [folder for some in self.folders().values() for folder in some]):
            raise ConfigError("export: no pairs are given; name the folders of runs with train, validation or test")
        return common_labels(folders)

    def folders(self) -> dict[str, list[str]]:
        """Folders of runs by split, as workers find them; only splits that have some."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: list(folders) for split, folders in given.items() if folders}


def export(config: ExportConfig) -> str:
    """Writes what `config.run` does not hold yet; returns the folder of the tree.

    Raises:
        ClusterError: processes or machines died too often.
        ConfigError: no split, or a format that cannot hold these pairs.
        DataError: label spaces that differ, a pair in two splits, a split without pairs, no confidence maps.
        ShardError: a folder without shards, a broken shard, or a file that cannot be written.
        Stopped: SIGINT or SIGTERM; the parts that had begun are written.
    """
    folders = config.folders()
    labels = config.common_labels()
    found = {
        split: [(path, view) for view in map(view_of, some) for path in some_shards(view.folder)]
        for split, some in folders.items()
    }
    shards = {split: [path for path, _ in some] for split, some in found.items()}
    views = {split: [view for _, view in some] for split, some in found.items()}
    names = {split: list(map(_name, paths)) for split, paths in shards.items()}
    for split, some in folders.items():
        kept = [view.kept for view in map(view_of, some) if view.kept is not None]
        names[split] += [text_digest(one.to_pylist()) for one in kept]
    with Run.open(config, "export", facts={"shards": text_digest(names)}, on_store=True) as run:
        require(config.workers)
        parts = parts_of(
            shards, views, min_confidence=config.min_confidence, pairs=config.pairs, scores=config.ignore_noisy
        )
        tree = Tree(
            folder=f"{run.folder}/export",
            name=config.name or config.run,
            labels=labels,
            runs={split: tuple(map(_name, some)) for split, some in folders.items()},
            image_format=one_format(parts, config) if config.format == "mmseg" else config.image_format,
            ignore_below=config.ignore_below,
            ignore_noisy=bool(config.ignore_noisy),
        )
        format = FORMATS[config.format](tree)
        _remove_drafts(tree.folder)
        # Also what says that the run has made something, so that another config is refused from now on.
        listed = {part.name: [_name(part.shard), len(part.rows)] for part in parts}
        write_bytes(f"{run.folder}/parts.json", json.dumps(listed, indent=1).encode())
        make(format, parts, str(run.folder), config.workers)
        records = {
            split: Saved(tuple(_record(str(run.folder), part) for part in parts if part.split == split))
            for split in folders
        }
        format.finish(records)
        tell(run, tree, records)
        return tree.folder


def make(format: Format, parts: list[Part], folder: str, workers: Workers) -> None:
    """Writes the parts that have no record in the run `folder`, each in a Ray task, at most `workers.num` at once.

    Raises:
        Stopped: as `export`.
    """
    there = map_shards(is_file, [_record(folder, part) for part in parts])
    todo = [part for part, done in zip(parts, there, strict=True) if not done]
    total = sum(len(part.rows) for part in todo)
    log.info(
        "export: %d of %d parts to write, %s pairs, into %s", len(todo), len(parts), f"{total:,}", format.tree.folder
    )
    began = told = time.monotonic()
    done = num_pairs = 0
    asked = threading.Event()
    calls = ((format, part, _record(folder, part)) for part in todo)
    with stoppable("export", asked.set):
        for written in in_tasks(_write, takewhile(lambda _: not asked.is_set(), calls), workers):
            done, num_pairs = done + 1, num_pairs + written
            if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                left = clock((total - num_pairs) * (told - began) / max(num_pairs, 1))
                log.info(
                    "export: %d of %d parts, %s of %s pairs, %s left",
                    done, len(todo), f"{num_pairs:,}", f"{total:,}", left,
                )  # fmt: skip
    if done < len(todo):
        written = len(parts) - len(todo) + done
        raise Stopped(f"stopped: {written} of {len(parts)} parts are written in {format.tree.folder}")


def one_format(parts: list[Part], config: ExportConfig) -> ImageChoice:
    """The one format of all pictures: as configured; instead of "keep", JPEG where all are so, else PNG."""
    if config.image_format != "keep":
        return config.image_format
    log.info("export: checking whether every picture is a JPEG (--image-format png or jpeg skips this)")
    return "jpeg" if all(in_tasks(all_jpeg, ((part,) for part in parts), config.workers)) else "png"


def tell(run: Run, tree: Tree, records: Records) -> None:
    """Says what was written, and names the pairs that were not."""
    known = {split: summaries(parts) for split, parts in records.items()}
    num_pairs = {split: Tally.joined(part["tally"] for part in parts).num_pairs for split, parts in known.items()}
    left_out = {pair: why for parts in known.values() for part in parts for pair, why in part["left_out"].items()}
    for pair, why in islice(left_out.items(), MAX_NAMED):
        log.warning("export: left out %s: %s", pair, why)
    run.tracker.metrics({"pairs": sum(num_pairs.values()), "left_out": len(left_out)})
    counted = ", ".join(f"{num:,} pairs of {split}" for split, num in num_pairs.items())
    damaged = f"; {len(left_out):,} are damaged and left out" if left_out else ""
    log.info("export: %s in %s%s", counted, tree.folder, damaged)


def _write(format: Format, part: Part, record: str) -> int:
    """What a task does; returns how many pairs it looked at."""
    write_part(format, part, record)
    return len(part.rows)


def _record(folder: str, part: Part) -> str:
    return f"{folder}/parts/{part.name}.json"


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _remove_drafts(folder: str) -> None:
    """Removes what killed writers left in a local tree."""
    if is_local(folder):
        for draft in Path(folder).rglob(".*.draft"):
            with suppress(FileNotFoundError):
                draft.unlink()
