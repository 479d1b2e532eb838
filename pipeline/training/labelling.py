"""Masks for pictures that have none, by trained segmenters: the teachers of self-training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch

from models.labels import LabelSpace
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import Folder
from pipeline.cluster.drive import Left, drive
from pipeline.cluster.finish import finish
from pipeline.cluster.processes import Stage, in_processes
from pipeline.cluster.progress import Shared
from pipeline.cluster.tasks import MAX_RETRIES
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.pictures.masks import class_areas, ignore_uncertain
from pipeline.prompts.classes import evenly, named_classes, taken, unnamed
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.storage.copies import local_copy
from pipeline.storage.publish import write_bytes
from pipeline.tables.conform import object_column
from pipeline.tables.ids import canonical_json, labelled_pair_id
from pipeline.tables.label_space import LABELS
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.rows import Which, read_columns, read_texts, remaining
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import list_shards, remove_drafts
from pipeline.training.order import ids_of
from pipeline.training.tasks.segmenter import SegmenterTask

Hold = Literal["held", "soft", "free"]
"""Which classes a teacher may answer. "held": those that a picture's captions name, and id 0. "soft": the others count
for less, by how often captions leave out a class that is there. "free": all. Where captions name none, all."""
Predict = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(B, H, W, 3) uint8 and weights of classes (B, K + 1) float32 -> class ids (B, H, W), and the share of each among all
that were weighed, (B, H, W) uint8, times 255."""
ROWS_PER_BATCH = 64


@dataclass(frozen=True)
class Answers:
    """How a teacher answers.

    Attributes:
        hold: which classes it may answer.
        unnamed: weight of a class that no caption names; of hold "soft".
        ignore_below: pixels whose share is less get the ignore index.
        number: of the round of labelling, from 1.
        agree: masks that the pictures have stay where the teacher agrees, and get the ignore index elsewhere.
    """

    hold: Hold = "held"
    unnamed: float = 0.0
    ignore_below: float = 0.0
    number: int = 1
    agree: bool = False

    def weights(self, row: Mapping[str, Any], labels: LabelSpace) -> np.ndarray:
        """(K + 1,) float32: of each class in a row with captions."""
        named = named_classes(row, labels)
        weight = {"held": 0.0, "soft": self.unnamed, "free": 1.0}[self.hold] if named else 1.0
        return np.array([1 if not one or one in named else weight for one in range(labels.num_classes + 1)], np.float32)

    def made_by(self, teacher: str) -> str:
        """The column `sampler`: canonical JSON of the digest of the teacher and of how it answered."""
        further = {"unnamed": self.unnamed, "ignore_below": self.ignore_below, "agree": self.agree}
        changed = {name: value for name, value in further.items() if value}
        rounds = {"round": self.number} if self.number > 1 else {}
        return canonical_json({"teacher": teacher, "hold": self.hold, **changed, **rounds})


class Labelling(RunConfig):
    """What a run of labelled pictures is bound to."""

    pairs: Folder
    """Run whose pictures are labelled; masks that they have are looked at only where the teacher is to `agree`."""
    slice: str = ":"
    """Which of its pairs, as START:STOP in the order of their ids."""
    pictures: Which = "all"
    """All of them, or those alone that have no mask."""
    teacher: str
    """Folder of the teacher's weights."""
    voters: tuple[str, ...] = ()
    """Folders of further teachers; the shares of all are averaged."""
    hold: Hold
    """Which classes it may answer."""
    unnamed: float = 0.0
    """Weight of classes that no caption names, of hold "soft"."""
    ignore_below: float = 0.0
    """Pixels of which it is less sure get the ignore index."""
    number: int = 1
    """Of the round."""
    agree: bool = False
    """Keep masks that pictures have where the teacher agrees, and leave the rest void."""
    rows_per_shard: int = 1000
    """Pairs per Parquet file, give or take half."""
    workers: Workers = Workers()
    """Labelling processes."""

    @property
    def answers(self) -> Answers:
        """How the teacher answers."""
        return Answers(self.hold, self.unnamed, self.ignore_below, self.number, self.agree)


def label(config: Labelling, task: SegmenterTask, digest: str) -> None:
    """Writes the pairs of `config.pairs` that `config.run` does not hold yet, with the teacher's masks for their own.

    Args:
        config: where the pictures are, and where the pairs go.
        task: of the teacher, whose weights lie in `config.teacher`.
        digest: of these weights, and of those of the voters.

    Raises:
        ConfigError: the run is another job's, or was begun with another config.
        Stopped: SIGINT or SIGTERM; what had begun is written.
    """
    with Run.open(config, "label", facts={"teacher_digest": digest}, on_store=True) as run:
        write_labels(run, config, task, digest)
        finish(run)


def write_labels(run: Run, config: Labelling, task: SegmenterTask, digest: str) -> None:
    """As `label`, in a run that is open."""
    folder = str(run.folder)
    made_by = config.answers.made_by(digest)
    ids = ids_of(config.pairs, config.slice, which=config.pictures)
    plan = pa.table({"pair_id": [labelled_pair_id(one, made_by) for one in ids], "source_id": ids})
    remove_drafts(folder)
    there = (read_columns(path, ["sampler"])["sampler"].unique().to_pylist() for path in list_shards(folder))
    if others := {text for some in there for text in some} - {made_by}:
        raise ConfigError(
            f"{folder} holds labels of another teacher, {min(others)}; this one's are {made_by}. Take another --run "
            "name"
        )
    write_bytes(f"{folder}/{LABELS}", task.labels.to_json().encode())

    def left() -> Left:
        todo = remaining(plan, folder)
        return Left(todo.num_rows, lambda shared: graph(todo, config, task, made_by, shared))

    found = left()
    log.info("label: %s of %s pictures, %s", f"{found.num:,}", f"{plan.num_rows:,}", config.hold)
    drive(
        run,
        "label",
        found,
        left,
        planned=plan.num_rows,
        stages={"label": config.workers.num},
        workers=config.workers,
        rows_per_shard=config.rows_per_shard,
    )


def graph(todo: pa.Table, config: Labelling, task: SegmenterTask, made_by: str, shared: Shared) -> ray.data.Dataset:
    """Pairs of a run -> those in `todo` (source_id -> pair_id) with the teacher's masks."""
    wanted = ray.put(dict(zip(todo["source_id"].to_pylist(), todo["pair_id"].to_pylist(), strict=True)))
    left_out = ("confidence",) if config.agree else ("mask", "confidence")
    columns = [name for name in PAIR.names if name not in left_out]
    rows = read_pairs([config.pairs], columns).map_batches(
        partial(_chosen, wanted=wanted), batch_size=ROWS_PER_BATCH, batch_format="pyarrow", max_retries=MAX_RETRIES
    )
    device = "cuda" if config.workers.gpus else "cpu"
    make = partial(make_labeller, task, (config.teacher, *config.voters), config.answers, made_by, device)
    return in_processes(rows, "label", make, shared, config.workers, batch_size=ROWS_PER_BATCH, batch_format="pyarrow")


def _chosen(rows: pa.Table, *, wanted: ray.ObjectRef) -> pa.Table:
    new_ids: dict[str, str] = ray.get(wanted)
    ids = [new_ids.get(one) for one in rows["pair_id"].to_pylist()]
    renamed = rows.set_column(rows.schema.get_field_index("pair_id"), "pair_id", pa.array(ids, pa.string()))
    return renamed.filter(pc.is_valid(renamed["pair_id"]))


def make_labeller(task: SegmenterTask, teachers: tuple[str, ...], answers: Answers, made_by: str, device: str) -> Stage:
    """The stage of a labelling process; the folders of `teachers` may lie on a store."""
    nets = [task.load(local_copy(one)).to(device) for one in teachers]

    def predict(image: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return task.answer(nets, torch.from_numpy(image).to(device), torch.from_numpy(weights))

    return partial(labelled, task=task, predict=predict, answers=answers, made_by=made_by)


def labelled(rows: pa.Table, *, task: SegmenterTask, predict: Predict, answers: Answers, made_by: str) -> pa.Table:
    """Stage: packed pairs -> the same with masks of a teacher, and how sure it was.

    Args:
        rows: columns of PAIR; `mask` is looked at only where the answers are to agree with it.
        task: of the teacher.
        predict: what it sees.
        answers: how it answers.
        made_by: the column `sampler`.
    """
    if not rows.num_rows:
        return rows
    names = ["image", *(["mask"] if answers.agree else [])]
    decoded = decode_pairs({name: object_column(rows[name].to_pylist()) for name in names}, task.size_px)
    image, own = decoded["image"], decoded.get("mask")
    texts = [name for name in ("prompt", "captions", "prompt_class_ids") if name in rows.column_names]
    weights = [answers.weights(row, task.labels) for row in rows.select(texts).to_pylist()]
    masks, sure = predict(image, np.stack(weights))
    masks = np.stack([
        ignore_uncertain(mask, one, answers.ignore_below, task.labels.ignore_index)
        for mask, one in zip(masks, sure, strict=True)
    ])  # fmt: skip
    if own is not None:
        masks = np.where(masks == own, masks, masks.dtype.type(task.labels.ignore_index))
    counted = [class_areas(mask) for mask in masks]
    columns: dict[str, Any] = {
        "mask": [_picture(encode_mask(mask)) for mask in masks],
        "class_ids": [ids.tolist() for ids, _ in counted],
        "class_pixels": [pixels.tolist() for _, pixels in counted],
        "confidence_mean": [float(one.mean()) / 255 for one in sure],
        "confidence": [_picture(encode_mask(one)) for one in sure],
        "origin": ["labelled"] * rows.num_rows,
        "sampler": [made_by] * rows.num_rows,
    }
    if task.size_px:  # as the segmenter sees them
        columns["image"] = [_picture(encode_image(one)) for one in image]
        columns |= {side: [task.size_px] * rows.num_rows for side in ("height", "width")}
    made = rows.drop_columns([name for name in columns if name in rows.column_names])
    for name, values in columns.items():
        made = made.append_column(PAIR.field(name), pa.array(values, PAIR.field(name).type))
    return made


def _picture(content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": None}


def tell_named(folder: str, part: str, which: Which, labels: LabelSpace) -> float:
    """Of how many pictures the captions, or what their prompt asked for, name a class, in [0, 1]; says so, and which
    classes none names. Of many pictures a part is looked at, `evenly` taken.

    Args:
        folder, part, which: the pictures, as of `ids_of`.
        labels: the classes.
    """
    wanted = set(ids_of(folder, part, which))
    rows = [row for row in read_texts([folder]).to_pylist() if row["pair_id"] in wanted]
    read = evenly(rows)
    of_each = [named_classes(row, labels) for row in read]
    named = sum(map(bool, of_each)) / max(len(read), 1)
    some = taken(len(read), len(rows))
    log.info("label: the captions of %.0f %% of the pictures name a class%s", 100 * named, f" ({some})" * bool(some))
    if named and (left := unnamed(set().union(*of_each), labels, some)):
        log.warning("label: %s", left)
    return named


def left_unnamed(folder: str, part: str, labels: LabelSpace) -> float:
    """How often captions leave out a class that the mask of their picture holds, in [0, 1]: the weight of hold "soft".

    Seen from a class that no caption names, this is by how much the odds that it is there have fallen (Bayes).

    Args:
        folder, part: of labelled pairs, as of `ids_of`.
        labels: their classes.
    """
    wanted = set(ids_of(folder, part, which="labelled"))
    shown = unnamed = 0
    for row in read_texts([folder]).to_pylist():
        if row["pair_id"] in wanted and (named := named_classes(row, labels)):
            there = {one for one in row["class_ids"] if 1 <= one <= labels.num_classes}
            shown, unnamed = shown + len(there), unnamed + len(there - named)
    return (unnamed + 0.5) / (shown + 1)
