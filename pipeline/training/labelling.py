"""Labels for pictures that have none, by a trained segmenter: the teacher of self-training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
from pipeline.tables.rows import remaining
from pipeline.tables.schema import PAIR, captions_of
from pipeline.tables.shards import remove_drafts
from pipeline.training.order import ids_of
from pipeline.training.tasks.segmenter import SegmenterTask

Hold = Literal["free", "held"]
"""Which classes a teacher may answer: all, or those that a picture's captions name, and id 0; where they name none,
all."""
ROWS_PER_BATCH = 64


class LabelConfig(RunConfig):
    """What a run of labelled pictures is bound to."""

    pairs: Folder
    """Run whose pictures are labelled; masks that they have are not looked at."""
    slice: str = ":"
    """Which of its pairs, as START:STOP in the order of their ids."""
    teacher: str
    """Folder of the teacher's weights."""
    hold: Hold
    """Which classes it may answer."""
    rows_per_shard: int = 1000
    """Pairs per Parquet file, give or take half."""
    workers: Workers = Workers()
    """Labelling processes."""


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
        ids = ids_of(config.pairs, config.slice)
        plan = pa.table({"pair_id": [labelled_pair_id(one, made_by) for one in ids], "source_id": ids})
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
        partial(_chosen, wanted=wanted), batch_size=ROWS_PER_BATCH, batch_format="pyarrow"
    )
    device = "cuda" if config.workers.gpus else "cpu"
    make = partial(make_labeller, task, config.teacher, config.hold, made_by, device)
    return in_processes(rows, "label", make, shared, config.workers, batch_size=ROWS_PER_BATCH, batch_format="pyarrow")


def _chosen(rows: pa.Table, *, wanted: ray.ObjectRef) -> pa.Table:
    new_ids: dict[str, str] = ray.get(wanted)
    ids = [new_ids.get(one) for one in rows["pair_id"].to_pylist()]
    renamed = rows.set_column(rows.schema.get_field_index("pair_id"), "pair_id", pa.array(ids, pa.string()))
    return renamed.filter(pc.is_valid(renamed["pair_id"]))


def make_labeller(task: SegmenterTask, teacher: str, hold: Hold, made_by: str, device: str) -> Stage:
    """The stage of a labelling process; `teacher` may lie on a store."""
    net = task.load(local_copy(teacher)).to(device)

    def predict(image: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        return task.predict(net, torch.from_numpy(image).to(device), allowed=torch.from_numpy(allowed))

    return partial(labelled, task=task, predict=predict, hold=hold, made_by=made_by)


def labelled(
    rows: pa.Table,
    *,
    task: SegmenterTask,
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    hold: Hold,
    made_by: str,
) -> pa.Table:
    """Stage: packed pairs -> the same with masks of a teacher.

    Args:
        rows: columns of PAIR but `mask`, where there is one it is not looked at.
        task: of the teacher.
        predict: (B, H, W, 3) uint8 and allowed classes (B, K + 1) bool -> class ids (B, H, W).
        hold: which classes are allowed.
        made_by: the column `sampler`.
    """
    if not rows.num_rows:
        return rows
    cells = object_column(rows["image"].to_pylist())
    image = decode_pairs({"image": cells}, task.size_px)["image"]
    texts = rows.select([name for name in ("prompt", "captions") if name in rows.column_names]).to_pylist()
    masks = predict(image, np.stack([allowed_classes(row, task, hold) for row in texts]))
    counted = [class_areas(mask) for mask in masks]
    columns: dict[str, Any] = {
        "mask": [{"bytes": encode_mask(mask), "path": None} for mask in masks],
        "class_ids": [ids.tolist() for ids, _ in counted],
        "class_pixels": [pixels.tolist() for _, pixels in counted],
        "origin": ["labelled"] * rows.num_rows,
        "sampler": [made_by] * rows.num_rows,
    }
    if task.size_px:  # as the segmenter sees them
        columns["image"] = [{"bytes": encode_image(one), "path": None} for one in image]
        columns |= {side: [task.size_px] * rows.num_rows for side in ("height", "width")}
    made = rows.drop_columns([name for name in columns if name in rows.column_names])
    for name, values in columns.items():
        made = made.append_column(PAIR.field(name), pa.array(values, PAIR.field(name).type))
    return made


def allowed_classes(row: Mapping[str, Any], task: SegmenterTask, hold: Hold) -> np.ndarray:
    """(K + 1,) bool: what a teacher may answer for a picture with these captions."""
    named = {one for text in captions_of(row) for one in classes_in_prompt(text, task.labels)}
    everything = hold == "free" or not named
    return np.array([everything or not one or one in named for one in range(task.labels.num_classes + 1)])
