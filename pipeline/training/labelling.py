"""Labels for pictures that have none, by a trained segmenter: the teacher of self-training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from pipeline.base.config import Workers
from pipeline.base.log import log
from pipeline.base.places import Folder
from pipeline.cluster.drive import Left, drive
from pipeline.cluster.processes import Stage, in_processes
from pipeline.cluster.progress import Shared
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.pictures.masks import class_areas
from pipeline.prompts.classes import classes_in_prompt
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.storage.copies import local_copy
from pipeline.storage.publish import write_bytes
from pipeline.tables.conform import object_column
from pipeline.tables.ids import canonical_json, labelled_pair_id
from pipeline.tables.label_space import LABELS
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.rows import read_shards, remaining
from pipeline.tables.schema import PAIR, Batch, captions_of
from pipeline.tables.shards import remove_drafts
from pipeline.training.order import bounds
from pipeline.training.tasks.segmenter import SegmenterTask

Hold = Literal["free", "held"]
"""Which classes a teacher may answer: all, or those that a picture's captions name, and id 0; where they name none,
all."""
ROWS_PER_BATCH = 64


class LabelConfig(RunConfig):
    """What a run of labelled pictures is bound to."""

    pairs: Folder
    slice: str = ":"
    teacher: str
    hold: Hold
    rows_per_shard: int = 1000
    workers: Workers = Workers()


def label(config: LabelConfig, task: SegmenterTask, digest: str) -> None:
    """Writes the pairs of `config.pairs` that `config.run` does not hold yet, with the teacher's masks for their own.

    Args:
        config: where the pictures are, and where the pairs go.
        task: of the teacher, whose weights lie in `config.teacher`.
        digest: of these weights.

    Raises:
        ConfigError: the run is another job's, or was begun with another config.
        Stopped: SIGINT or SIGTERM; what had begun is written.
    """
    with Run.open(config, "label", facts={"teacher_digest": digest}, on_store=True) as run:
        folder = str(run.folder)
        made_by = canonical_json({"teacher": digest, "hold": config.hold})
        ids = read_shards([config.pairs], ["pair_id"])["pair_id"].unique().sort()
        start, stop = bounds(config.slice)
        ids = ids[start : int(min(stop, len(ids)))]
        plan = pa.table({"pair_id": [labelled_pair_id(one, made_by) for one in ids.to_pylist()], "source_id": ids})
        remove_drafts(folder)
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


def graph(todo: pa.Table, config: LabelConfig, task: SegmenterTask, made_by: str, shared: Shared) -> ray.data.Dataset:
    """Pairs of a run -> those in `todo` (source_id -> pair_id) with the teacher's masks."""
    wanted = ray.put(dict(zip(todo["source_id"].to_pylist(), todo["pair_id"].to_pylist(), strict=True)))
    columns = [name for name in PAIR.names if name != "mask"]
    rows = read_pairs([config.pairs], columns).map_batches(
        partial(_chosen, wanted=wanted), batch_size=ROWS_PER_BATCH, batch_format="numpy"
    )
    device = "cuda" if config.workers.gpus else "cpu"
    make = partial(make_labeller, task, config.teacher, config.hold, made_by, device)
    return in_processes(rows, "label", make, shared, config.workers, batch_size=ROWS_PER_BATCH)


def _chosen(batch: Batch, *, wanted: ray.ObjectRef) -> Batch:
    new_ids: dict[str, str] = ray.get(wanted)
    chosen = np.array([one in new_ids for one in batch["pair_id"]], bool)
    kept = {name: values[chosen] for name, values in batch.items()}
    kept["pair_id"] = object_column(new_ids[one] for one in kept["pair_id"])
    return kept


def make_labeller(task: SegmenterTask, teacher: str, hold: Hold, made_by: str, device: str) -> Stage:
    """The stage of a labelling process; `teacher` may lie on a store."""
    net = task.load(local_copy(teacher)).to(device)

    def predict(image: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        return task.predict(net, torch.from_numpy(image).to(device), allowed=torch.from_numpy(allowed))

    return partial(labelled, task=task, predict=predict, hold=hold, made_by=made_by)


def labelled(
    batch: Batch,
    *,
    task: SegmenterTask,
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    hold: Hold,
    made_by: str,
) -> Batch:
    """Stage: packed pairs -> the same with masks of a teacher.

    Args:
        batch: columns of PAIR; their masks are not looked at.
        task: of the teacher.
        predict: (B, H, W, 3) uint8 and allowed classes (B, K + 1) bool -> class ids (B, H, W).
        hold: which classes are allowed.
        made_by: the column `sampler`.
    """
    num = len(batch["pair_id"])
    if not num:
        return {**batch, "mask": object_column([])}
    image = decode_pairs({"image": batch["image"]}, task.size_px)["image"]
    if task.size_px:  # as the segmenter sees them
        batch = {**batch, "image": object_column(map(encode_image, image))}
        batch |= {side: np.full(num, task.size_px, np.int32) for side in ("height", "width")}
    masks = predict(image, np.stack([_allowed(batch, row, task, hold) for row in range(num)]))
    counted = [class_areas(mask) for mask in masks]
    return {
        **batch,
        "mask": object_column(map(encode_mask, masks)),
        "class_ids": object_column(ids for ids, _ in counted),
        "class_pixels": object_column(pixels for _, pixels in counted),
        "origin": np.full(num, "labelled", object),
        "sampler": np.full(num, made_by, object),
    }


def _allowed(batch: Batch, row: int, task: SegmenterTask, hold: Hold) -> np.ndarray:
    """(K + 1,) bool."""
    captions = captions_of({name: batch[name][row] for name in ("prompt", "captions") if name in batch})
    named = {one for text in captions for one in classes_in_prompt(text, task.labels)}
    everything = hold == "free" or not named
    return np.array([everything or not one or one in named for one in range(task.labels.num_classes + 1)])
