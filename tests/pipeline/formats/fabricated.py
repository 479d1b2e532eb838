"""Sets of pairs to export: made of numbers, with every label convention, format of picture and kind of pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.labels import LabelSpace
from pipeline.formats.part import Format, Record, Tree, write_part
from pipeline.formats.parts import parts_of
from pipeline.pictures.codec import ImageFormat, decode_image, encode_image, encode_mask
from pipeline.tables.conform import conform
from pipeline.tables.ids import real_pair_id
from pipeline.tables.schema import PAIR
from pipeline.tables.scores import score_schema
from pipeline.tables.shards import list_shards, write_table

SIZES = ((32, 32), (24, 40), (40, 24))
"""Height and width of pairs, one after the other."""


@dataclass
class Made:
    """What was put into a set, by pair id."""

    labels: LabelSpace
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    masks: dict[str, np.ndarray] = field(default_factory=dict)

    def image(self, name: str) -> np.ndarray:
        """As it decodes: a JPEG is what it is."""
        return decode_image(self.rows[name]["image"], name)


def save_set(
    folder: Path, labels: LabelSpace, num_pairs: int = 5, num_shards: int = 2, key: str = "", **changes: Any
) -> Made:
    """Writes a run with `num_pairs` pairs, the last of them generated; `changes` are columns that all rows get.

    The masks hold background, two touching objects of two classes, two apart of one class, and ignored pixels.
    """
    made = Made(labels)
    for index in range(num_pairs):
        name = real_pair_id(f"{folder.name}{key}", str(index))
        made.masks[name] = mask_of(index, labels)
        made.rows[name] = {**row_of(name, index, made.masks[name], synthetic=index == num_pairs - 1), **changes}
    rows = list(made.rows.values())
    for part in np.array_split(np.arange(num_pairs), num_shards):
        save_rows([rows[index] for index in part], folder)
    (folder / "label_space.json").write_text(labels.to_json())
    return made


def save_rows(rows: list[dict[str, Any]], folder: Path) -> str:
    """Writes rows as one shard; returns its name."""
    return write_table(conform(pa.Table.from_pylist(rows), PAIR), f"{folder}/shards")


def save_noise(folder, names, masks):
    """Scores of the kind judge: the upper half of each mask is noisy."""
    rows = []
    for name in names:
        noise = np.zeros(masks[name].shape, np.uint8)
        noise[: len(noise) // 2] = 255
        rows.append({"pair_id": name, "noise_map": {"bytes": encode_mask(noise), "path": None}})
    schema = score_schema("judge")
    for row in rows:  # a shard each
        write_table(conform(pa.Table.from_pylist([row]), schema), f"{folder}/judge/shards")
    return str(folder)


def mask_of(index: int, labels: LabelSpace) -> np.ndarray:
    """(H, W) class ids."""
    mask = np.zeros(SIZES[index % len(SIZES)], labels.dtype)
    first, second = 1 + index % labels.num_classes, labels.num_classes - index % labels.num_classes
    mask[2:8, 2:8] = first
    mask[8:12, 8:12] = first  # touches it at a corner: one piece, of eight neighbours
    mask[4:7, 8:20] = second
    mask[15:20, 3:5] = first
    mask[0, :3] = labels.ignore_index
    return mask


def row_of(name: str, index: int, mask: np.ndarray, *, synthetic: bool) -> dict[str, Any]:
    """A row of PAIR; pictures in three formats."""
    formats: tuple[ImageFormat, ...] = ("png", "jpeg", "webp")
    image = np.random.default_rng(index).integers(0, 256, (*mask.shape, 3), np.uint8)
    ids, areas = np.unique(mask, return_counts=True)
    confidence = np.full(mask.shape, 255, np.uint8)
    confidence[-2:] = 100
    real = {
        "origin": "real",
        "dataset": "shapes",
        "split": "train",
        "key": f"{index:03}",
        "captions": [f"a {index}", "b"],
    }
    made = {"origin": "synthetic", "bundle": "b" * 16, "sampler": '{"steps":20}', "confidence_mean": 0.75}
    return {
        "pair_id": name,
        "prompt": f"a {index}",
        "seed": index,
        "image": encode_image(image, formats[index % len(formats)]),
        "mask": encode_mask(mask),
        "height": mask.shape[0],
        "width": mask.shape[1],
        "class_ids": ids.tolist(),
        "class_pixels": areas.tolist(),
        **{name: None for name in (*real, *made)},
        "confidence": encode_mask(confidence) if synthetic else None,
        **(made if synthetic else real),
    }


def written(format: Format, records: Path | str, **folders: Path) -> dict[str, list[Record]]:
    """Writes whole splits without Ray, and finishes; returns the records."""
    parts = parts_of({split: list_shards(str(folder)) for split, folder in folders.items()})
    made: dict[str, list[Record]] = {split: [] for split in folders}
    for part in parts:
        made[part.split].append(write_part(format, part, f"{records}/{part.name}.json"))
    format.finish(made)
    return made


def tree_of(folder: Path | str, labels: LabelSpace, **changes: Any) -> Tree:
    runs = {split: (f"run-{split}",) for split in ("train", "validation", "test")}
    return Tree(f"{folder}/export", "Shapes", labels, runs, **changes)
