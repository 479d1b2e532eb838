"""Small data sets in their true layouts, and a way to read one without Ray."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from models.labels import voc_palette
from pipeline.datasets.source import Source
from pipeline.pictures.codec import decode_image, decode_mask
from pipeline.stages.read import ReadPairs
from pipeline.tables.schema import Batch

WIDTH, HEIGHT = 10, 6  # not square, so that sides that are mixed up show


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A smooth picture (H, W, 3) uint8, so that JPEG changes little of it."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 8 + seed, columns * 8 + seed, (rows + columns) * 4], axis=2).astype(np.uint8)


def save_picture(path: Path, image: np.ndarray | None = None, mode: str = "RGB", **options: Any) -> Path:
    """Writes a picture, by default JPEG's way for its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".jpg", ".jpeg"):
        options = {"quality": 95, "subsampling": 0} | options
    Image.fromarray(picture() if image is None else image).convert(mode).save(path, **options)
    return path


def save_mask(path: Path, mask: np.ndarray, palette: bool = False) -> Path:
    """Writes class ids as a grey or a palette PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = Image.fromarray(mask)
    if palette:
        ids = ids.convert("P")
        ids.putdata(mask.reshape(-1).tolist())
        ids.putpalette([value for colour in voc_palette(256) for value in colour])
    ids.save(path)
    return path


def save_colour_mask(path: Path) -> Path:
    """Writes a mask as colours, which is refused."""
    return save_picture(path, np.full((HEIGHT, WIDTH, 3), 129, np.uint8))  # no class has it


def save_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def save_lines(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def mask_of(class_id: int, border: int | None = None, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A box of one class on background, with a border of another value where asked for; (H, W) uint8."""
    mask = np.zeros((height, width), np.uint8)
    if border is not None:
        mask[1:5, 2:8] = border
    mask[2:4, 3:7] = class_id
    return mask


def save_sbd_mask(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"GTcls": {"Segmentation": mask, "Boundaries": np.zeros(1), "CategoriesPresent": np.unique(mask)}})
    return path


def save_voc(root: Path) -> Path:
    """VOC 2012 beside SBD: five training pictures, one for validation; returns VOCdevkit.

    2007_000001 is in VOC alone, 2008_000002 in SBD alone, 2008_000003 in both with other content, 2008_000004 is SBD's
    and in its list for validation; 2007_000009 is VOC's for validation and in SBD's for training.
    """
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "VOCaug" / "dataset"
    for seed, stem in enumerate(("2007_000001", "2008_000002", "2008_000003", "2008_000004", "2007_000009")):
        save_picture(voc / "JPEGImages" / f"{stem}.jpg", picture(seed))
    save_mask(voc / "SegmentationClass" / "2007_000001.png", mask_of(1, border=255), palette=True)
    save_mask(voc / "SegmentationClass" / "2008_000003.png", mask_of(3, border=255), palette=True)
    save_mask(voc / "SegmentationClass" / "2007_000009.png", mask_of(9, border=255), palette=True)
    for stem, class_id in (("2008_000002", 2), ("2008_000003", 13), ("2008_000004", 4), ("2007_000009", 19)):
        save_sbd_mask(sbd / "cls" / f"{stem}.mat", mask_of(class_id))
    lists = voc / "ImageSets" / "Segmentation"
    save_lines(lists / "train.txt", ["2008_000003 ", "", "2007_000001"])  # a trailing blank, an empty line, no order
    save_lines(lists / "val.txt", ["2007_000009"])
    save_lines(sbd / "train.txt", ["2008_000002", "2008_000003", "2007_000009"])
    save_lines(sbd / "val.txt", ["2008_000004"])
    return root / "VOCdevkit"


def read_all(source: Source, **settings: Any) -> dict[str, dict[str, Any]]:
    """Key -> row of PAIR, with `image` and `mask` decoded where there is no error."""
    table = source.entries()
    columns: Batch = {name: np.array(table[name].to_pylist(), object) for name in table.column_names}
    columns["pair_id"] = columns["key"]
    rows = ReadPairs(source, source.labels, "set", "train", **settings)(columns)
    found = {}
    for index, key in enumerate(rows["key"]):
        row: dict[str, Any] = {name: values[index] for name, values in rows.items()}
        if not row["error"]:
            row |= {
                "image": decode_image(row["image"], key),
                "mask": decode_mask(row["mask"], key) if row["mask"] else None,
                "file": row["image"],
            }
        found[str(key)] = row
    return found


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def instances(images: Sequence[Any], annotations: Sequence[Any], categories: Any) -> dict[str, Any]:
    """Annotations in COCO's form; every image has the size of `picture`."""
    sized = [{"height": HEIGHT, "width": WIDTH, **image} for image in images]
    numbered = [{"id": index, "iscrowd": 0, **one} for index, one in enumerate(annotations, start=1)]
    return {"images": sized, "annotations": numbered, "categories": categories}
