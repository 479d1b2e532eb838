"""COCO 2017, and any other set with annotations in COCO's form.

train2017/000000000009.jpg
annotations/instances_train2017.json      images, annotations (polygons, or RLE for crowds), categories
annotations/captions_train2017.json       about five captions a picture
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pycocotools import mask as rle

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.datasets.source import (
    Found,
    PairError,
    entry_table,
    read_captions,
    read_file,
    read_json,
    without_suffix,
)
from pipeline.storage.files import is_file

Crowd = Literal["ignore", "paint"]
Overlap = Literal["file", "area"]
MIN_NUMBERS = 6  # of a polygon: three corners


@dataclass(frozen=True)
class COCO:
    """One split of a data set in COCO's form; its instances are painted into one mask of classes.

    Attributes:
        root: the folder of the pictures' folder and of annotations/.
        split: "train2017" (or "train"), "val2017" (or "val"), ...
        crowd: what regions of crowds become: the ignore index, below all objects; or their class, as in the paper's
            code.
        overlap: which object is on top: the later one in the file, as in the paper's code, or the smaller one.
        captions: JSON file by name; empty takes captions_<split>.json, if it is there.
        given: label space by which categories get their class ids, by name. Without one it is COCO's own where the
            names are COCO's, else the categories in the order of their ids.
    """

    root: str
    split: str
    crowd: Crowd = "ignore"
    overlap: Overlap = "file"
    captions: str = ""
    given: LabelSpace | None = None

    @property
    def labels(self) -> LabelSpace:
        return self.given or label_space_of(self._instances["categories"])

    def entries(self) -> pa.Table:
        try:
            return self._entries(self._instances)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self._path}: not in COCO's form, something has no {error}; images need id, file_name, height and "
                "width, annotations image_id, category_id and segmentation, categories id and name"
            ) from error

    def _entries(self, found: dict[str, Any]) -> pa.Table:
        objects = self._objects(found)
        captions = self._captions(found["images"])
        rows = []
        for image in found["images"]:
            key = without_suffix(str(image["file_name"]))
            # What is painted, in its order: numbers and regions, so that reading needs nothing but this.
            mask = json.dumps([image["height"], image["width"], objects.pop(image["id"], [])], separators=(",", ":"))
            rows.append((key, f"{self.root}/{self._name}/{image['file_name']}", mask, captions.get(key, [])))
        if objects:
            raise DataError(f"{self._path}: annotations of image {next(iter(objects))}, but no such image is listed")
        return entry_table(rows)

    def read(self, entry: Mapping[str, Any]) -> Found:
        image = read_file(entry["image"], "picture")
        height, width, objects = json.loads(entry["mask"])
        mask = np.zeros((height, width), np.uint16)
        for value, segmentation in objects:
            mask[region(segmentation, height, width, str(entry["key"]))] = value
        return Found(image, mask, list(entry["captions"]))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_instances"}  # gigabytes

    def _objects(self, found: dict[str, Any]) -> dict[int, list[tuple[int, Any]]]:
        """Image id -> value in the mask and region of each object, the lowest first."""
        labels = self.labels
        class_ids = self._class_ids(found["categories"], labels)
        objects: dict[int, list[tuple[bool, float, int, Any]]] = defaultdict(list)
        for one in found["annotations"]:
            if one["category_id"] not in class_ids:
                raise DataError(
                    f"{self._path}: annotation {one.get('id')} has an unlisted category {one['category_id']}"
                )
            ignored = bool(one.get("iscrowd")) and self.crowd == "ignore"
            area = float(one.get("area") or 0) if self.overlap == "area" else 0.0
            value = labels.ignore_index if ignored else class_ids[one["category_id"]]
            objects[one["image_id"]].append((not ignored, -area, value, one["segmentation"]))
        return {
            image: [(value, outline) for _, _, value, outline in sorted(of_image, key=lambda one: one[:2])]
            for image, of_image in objects.items()
        }

    @cached_property
    def _name(self) -> str:
        return self.split if is_file(f"{self.root}/annotations/instances_{self.split}.json") else f"{self.split}2017"

    @property
    def _path(self) -> str:
        return f"{self.root}/annotations/instances_{self._name}.json"

    @cached_property
    def _instances(self) -> dict[str, Any]:
        found = read_json(self._path, f"it holds the annotations of the split {self.split!r}")
        if not isinstance(found, dict) or not found.keys() >= {"images", "annotations", "categories"}:
            raise DataError(f"{self._path}: annotations in COCO's form have the keys images, annotations, categories")
        return found

    def _class_ids(self, categories: list[dict[str, Any]], labels: LabelSpace) -> dict[int, int]:
        """Category id -> class id."""
        unknown = [one["name"] for one in categories if one["name"] not in labels.classes[1:]]
        if unknown:
            raise DataError(
                f"{self._path}: the categories {', '.join(map(repr, unknown[:10]))} are no classes of label space "
                f"{labels.name!r}; choose the label space that they belong to"
            )
        return {one["id"]: labels.classes.index(one["name"]) for one in categories}

    def _captions(self, images: list[dict[str, Any]]) -> dict[str, list[str]]:
        own = f"{self.root}/annotations/captions_{self._name}.json"
        if self.captions or not is_file(own):
            return read_captions(self.captions)
        names = {image["id"]: without_suffix(image["file_name"]) for image in images}
        captions: dict[str, list[str]] = defaultdict(list)
        for one in read_json(own, "it holds the captions")["annotations"]:
            if one["image_id"] in names and (text := str(one["caption"]).strip()):
                captions[names[one["image_id"]]].append(text)
        return captions


def label_space_of(categories: list[dict[str, Any]]) -> LabelSpace:
    """COCO's label space where the categories are all of COCO's, else one of their names in the order of their ids."""
    coco = LabelSpace.named("coco")
    names = [str(one["name"]) for one in sorted(categories, key=lambda one: one["id"])]
    if set(names) == set(coco.classes[1:]):
        return coco
    try:
        return LabelSpace.custom("categories", tuple(names))
    except ValueError as error:
        raise DataError(f"categories of the annotations: {error}") from error


def region(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    """Polygons, or run lengths (column by column, compressed or not) -> (H, W) bool.

    Raises:
        PairError: neither.
    """
    try:
        if isinstance(segmentation, dict):
            runs = segmentation
            if isinstance(runs["counts"], list):
                if sum(runs["counts"]) != height * width:
                    raise ValueError(f"run lengths of {sum(runs['counts'])} pixels, the picture has {height * width}")
                runs = rle.frPyObjects(runs, height, width)
            if tuple(runs["size"]) != (height, width):
                raise ValueError(f"run lengths of {runs['size']}, picture of {[height, width]} (height, width)")
            return rle.decode(runs).astype(bool)
        polygons = [corners for corners in segmentation if len(corners) >= MIN_NUMBERS]  # fewer enclose nothing
        if not polygons:
            return np.zeros((height, width), bool)
        return rle.decode(rle.merge(rle.frPyObjects(polygons, height, width))).astype(bool)
    except Exception as error:  # the library's own are of many types
        raise PairError(
            "wrong_mask", f"{where}: a segmentation is neither polygons nor run lengths ({error})"
        ) from error
