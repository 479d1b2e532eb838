"""Small runs of pairs that galleries are made of, and galleries that are made without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.labels import LabelSpace
from pipeline.gallery import GalleryConfig, gallery
from pipeline.pages.gallery_files import unscript
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables.conform import conform
from pipeline.tables.label_space import LABELS
from pipeline.tables.schema import PAIR
from pipeline.tables.scores import Kind, score_schema
from pipeline.tables.shards import write_table

SPACE = LabelSpace.custom("things", ("bag", "<b>dress</b>", "boot"))
EVIL = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"> "\'\u2028`${1}`'


def ids_of(name: str, num: int) -> list[str]:
    """Ids of pairs, ascending, other ones for each name."""
    return [f"{name}{number:04d}".encode().hex() for number in range(num)]


def picture_of(number: int, size: tuple[int, int] = (24, 32)) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) image and (H, W) mask: its left half shows class 1 + number % 3, a strip below is unknown."""
    image = np.full((*size, 3), (number * 5 % 256, 90, 200), np.uint8)
    mask = np.zeros(size, np.uint8)
    mask[:, : size[1] // 2] = 1 + number % 3
    mask[-2:] = SPACE.ignore_index
    return image, mask


def save_set(folder: Path, name: str, num: int, *, num_shards: int = 2, **columns: Any) -> list[str]:
    """Writes a run of `num` pairs, with other `columns` where given; returns their ids."""
    made = [picture_of(number) for number in range(num)]
    counted = [np.unique(mask, return_counts=True) for _, mask in made]
    rows = {
        "pair_id": ids_of(name, num),
        "prompt": [f"a {('red', 'blue')[number % 2]} {('bag', 'dress', 'boot')[number % 3]}" for number in range(num)],
        "seed": [2**62 + number for number in range(num)],
        "image": [encode_image(image) for image, _ in made],
        "mask": [encode_mask(mask) for _, mask in made],
        "height": [24] * num,
        "width": [32] * num,
        "class_ids": [ids.tolist() for ids, _ in counted],
        "class_pixels": [pixels.tolist() for _, pixels in counted],
        "confidence_mean": [number / num for number in range(num)],
        "origin": ["synthetic"] * num,
        "bundle": ["bundle"] * num,
        "sampler": ['{"steps":20}'] * num,
    }
    table = conform(pa.table({**rows, **columns}), PAIR)
    for part in np.array_split(np.arange(num), num_shards):
        write_table(table.take(part), f"{folder}/shards")
    SPACE.save(folder / LABELS)
    return ids_of(name, num)


def save_scores(folder: Path, kind: Kind, ids: list[str], **columns: Any) -> None:
    """Writes scores of pairs."""
    table = pa.table({"pair_id": ids, f"{kind}_by": ['{"copy_ratio": 0.1}'] * len(ids), **columns})
    write_table(conform(table, score_schema(kind)), f"{folder}/{kind}/shards")


@contextmanager
def without_ray() -> Iterator[None]:
    """Parts are made in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.gallery.in_tasks", lambda function, calls, _: (function(*one) for one in calls))
        patch.setattr("pipeline.gallery.require", lambda _: None)
        yield


def make_gallery(folder: Path, *pairs: Path, **values: Any) -> Path:
    """Makes a gallery of runs in `<folder>/look`; returns the folder of its files."""
    given = {"run": "look", "runs": str(folder), "pairs": tuple(map(str, pairs)), **values}
    with without_ray():
        return Path(gallery(GalleryConfig.model_validate(given))).parent


def content(folder: Path, key: str) -> bytes:
    """What a file of a gallery holds; of its index where the key says no folder of pictures."""
    if not key.startswith("pictures/"):
        (index,) = folder.glob("index-*")
        key = f"{index.name}/{key}"
    return unscript((folder / f"{key}.js").read_bytes())
