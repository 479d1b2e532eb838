"""Gallery: a folder of static files in which a person looks through a million pairs."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from shlex import quote

from pydantic import Field

from models.labels import LabelSpace
from pipeline.base.config import Workers
from pipeline.base.errors import DataError, Stopped
from pipeline.base.log import clock, log
from pipeline.base.places import Folder
from pipeline.cluster.connection import require
from pipeline.cluster.tasks import in_tasks
from pipeline.cluster.watch import stoppable
from pipeline.pages import gallery_pictures
from pipeline.pages.gallery_index import Index
from pipeline.pages.gallery_page import assets_digest, write_assets, write_page
from pipeline.pages.gallery_pictures import PICTURES, Part, Sizes, bytes_of_pair, make_part, read_record
from pipeline.pages.gallery_rows import Rows, read_rows, table_digest
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.storage.files import filesystem_of, is_file, is_local, names_in
from pipeline.tables.ids import text_digest
from pipeline.tables.label_space import common_labels
from pipeline.tables.shards import map_shards

SECONDS_BETWEEN_LINES = 10.0
MAX_NAMED = 20
"""Of pairs that cannot be shown, on the terminal."""
INDEX = "index-"


class GalleryConfig(RunConfig):
    """Writes a page to look through pairs into <run>/gallery: static files for any web server, or to open from disk."""

    pairs: tuple[Folder, ...] = Field(min_length=1)
    """Runs or selections; several can be compared side by side, pair by pair of one seed or picture."""
    scores: tuple[Folder, ...] = ()
    """Runs of jobs.score of these pairs: to sort and filter by, and the real pair that each is most like."""
    title: str = ""
    """Of the page; empty takes the name of the run."""
    tile_px: int = Field(64, ge=16, le=256)
    """Longer side of the small pictures, in pixels."""
    large_pairs: int = Field(20_000, ge=0)
    """Pairs that are kept large too, at most; of more pairs the half, or quarter and so on, that these hold, drawn by
    their ids. The others are shown at tile_px when one looks closer. For more of those that matter, mark them, curate,
    and make a gallery of the selection."""
    large_px: int = Field(1024, ge=16)
    """Longer side of large pictures at most, in pixels; smaller ones stay as they are, byte by byte."""
    workers: Workers = Workers(num=2)
    """Processes that read and shrink pictures."""


@dataclass(frozen=True)
class Plan:
    """What a gallery holds.

    Attributes:
        folder: of its files.
        rows: the pairs.
        parts: what is made of them one by one.
        sizes: of the pictures.
        labels: of the masks.
    """

    folder: str
    rows: Rows
    parts: Sequence[Part]
    sizes: Sizes
    labels: LabelSpace

    @property
    def names(self) -> list[str]:
        """Folders of the parts, in their order."""
        return [part.name(self.sizes) for part in self.parts]

    @property
    def num_large(self) -> int:
        """Pairs that are kept large."""
        return sum(int(part.large.sum()) for part in self.parts)


def gallery(config: GalleryConfig) -> str:
    """Writes what `config.run` does not hold yet; returns the path of the page. Pictures are made once: with more
    pairs or other scores, only what is new is made.

    Raises:
        ClusterError: processes or machines died too often.
        DataError: label spaces that differ, scores of other pairs, or a disk that is too small.
        ShardError: a folder without shards, a broken shard, or a file that cannot be written.
        Stopped: SIGINT or SIGTERM; the parts that had begun are written.
    """
    labels = common_labels(config.pairs)
    with Run.open(config, "gallery", frozenset(GalleryConfig.model_fields), on_store=True) as run:
        rows, sizes = read_rows(config.pairs, config.scores, labels), Sizes(config.tile_px, config.large_px)
        plan = Plan(f"{run.folder}/gallery", rows, rows.parts(config.large_pairs), sizes, labels)
        _remove_drafts(plan.folder)
        asked = threading.Event()
        with stoppable("gallery", asked.set):
            make(plan, config.workers, asked)
            into = index(plan, config, asked)
            page = write_page(plan.folder, into, config.title or config.run, labels)
        remove_old(plan, into)
        run.tracker.metrics({"pairs": rows.table.num_rows})
        num = f"{rows.table.num_rows:,}"
        log.info("gallery: %s pairs%s; open %s", num, rows.beside, page)
        serve = "python -m http.server --bind 127.0.0.1 --directory"  # without: for whoever reaches this machine
        log.info("gallery: or, on this machine: %s %s, and open http://127.0.0.1:8000", serve, quote(plan.folder))
        return page


def make(plan: Plan, workers: Workers, asked: threading.Event) -> None:
    """Makes the parts that are not there, each in a Ray task, when it has said what they will take.

    Raises:
        DataError: there is no room for them.
        Stopped: as `gallery`.
    """
    folder, num = plan.folder, plan.rows.table.num_rows
    there = map_shards(is_file, [f"{folder}/{PICTURES}/{name}/{gallery_pictures.RECORD}" for name in plan.names])
    todo = [part for part, done in zip(plan.parts, there, strict=True) if not done]
    total = sum(len(part.places) for part in todo)
    if not todo:
        return
    small, large = bytes_of_pair(todo[0], plan.sizes, plan.labels)
    needed = int(small * total + large * sum(int(part.large.sum()) for part in todo)) + plan.rows.table.nbytes // 2
    log.info(
        "gallery: %s of %s pairs to make%s, about %.2f GB into %s; %s pairs are kept large",
        f"{total:,}", f"{num:,}", plan.rows.beside, needed / 1e9, folder, f"{plan.num_large:,}",
    )  # fmt: skip
    if is_local(folder) and needed > (free := shutil.disk_usage(Path(folder).parent).free):
        raise DataError(
            f"{folder}: the gallery takes about {needed / 1e9:.2f} GB, but {free / 1e9:.2f} are free there; lower "
            "large_pairs or tile_px, or take another --runs"
        )
    require(workers)
    began = told = time.monotonic()
    done = 0
    calls = ((part, folder, plan.sizes, plan.labels) for part in todo)
    for pairs, _ in in_tasks(make_part, takewhile(lambda _: not asked.is_set(), calls), workers):
        done += pairs
        if time.monotonic() - told > SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            left = clock((total - done) * (told - began) / max(done, 1))
            log.info("gallery: %s of %s pairs, %s left", f"{done:,}", f"{total:,}", left)
    if done < total:
        raise Stopped(f"stopped: {num - total + done:,} of {num:,} pairs are in {folder}")


def index(plan: Plan, config: GalleryConfig, asked: threading.Event) -> str:
    """Writes the index and what the page runs, if they are not there; returns their folder's name.

    Raises:
        Stopped: as `gallery`.
    """
    folder, labels = plan.folder, plan.labels
    records = map_shards(lambda name: read_record(f"{folder}/{PICTURES}/{name}") or {}, plan.names)
    damaged = {pair: why for record in records for pair, why in record.get("damaged", {}).items()}
    for pair, why in list(damaged.items())[:MAX_NAMED]:
        log.warning("gallery: cannot show %s: %s", pair, why)
    if damaged:
        log.warning("gallery: %s pairs are damaged; their tiles say so", f"{len(damaged):,}")
    meta = {
        "id": text_digest(str(config.folder)),
        "title": config.title or config.run,
        "parts": [[name, len(part.places)] for name, part in zip(plan.names, plan.parts, strict=True)],
        "num_large": plan.num_large,
        "sheet": gallery_pictures.SHEET,
        "columns": gallery_pictures.COLUMNS,
        "per_large": gallery_pictures.LARGE,
        "labels": {"classes": labels.classes, "palette": labels.palette, "ignore_index": labels.ignore_index},
    }
    known = [table_digest(plan.rows.table), plan.rows.scores, [vars(one) for one in plan.rows.sources]]
    into = f"{INDEX}{text_digest([assets_digest(), meta, *known])}"
    made = Index(folder, into, plan.rows, labels, asked.is_set)
    if not is_file(f"{folder}/{into}/meta.js"):
        write_assets(f"{folder}/{into}")
        made.write(meta)
    pictures = sum(record.get("bytes", 0) for record in records)
    log.info("gallery: pictures %.2f GB%s", pictures / 1e9, f", index {made.size / 1e9:.3f} GB" if made.size else "")
    return into


def remove_old(plan: Plan, into: str) -> None:
    """Removes what the page, whose index is `into`, does not read any more."""
    filesystem, path = filesystem_of(plan.folder)
    old = [name for name in names_in(plan.folder) if name.startswith(INDEX) and name != into]
    old += [f"{PICTURES}/{name}" for name in set(names_in(f"{plan.folder}/{PICTURES}")) - set(plan.names)]
    for name in old:
        filesystem.rm(f"{path}/{name}", recursive=True)


def _remove_drafts(folder: str) -> None:
    """Removes what killed writers left, on this machine."""
    if is_local(folder):
        for draft in Path(folder).rglob(".*.draft"):
            draft.unlink(missing_ok=True)
