"""COCO 2017, and any other set with annotations in COCO's form.

train2017/000000000009.jpg
annotations/instances_train2017.json      images, annotations (polygons, or RLE for crowds), categories
annotations/captions_train2017.json       about five captions a picture
annotations/image_info_unlabeled2017.json  images alone, read where none needs a mask

Also read are images/train/ beside annotations/ (CVAT), and train/_annotations.coco.json among the pictures (Roboflow).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.datasets.regions import Overlap, region, size_of
from pipeline.datasets.source import (
    Found,
    Labelled,
    PairError,
    entry_table,
    read_captions,
    read_file,
    read_json,
    without_suffix,
)
from pipeline.storage.files import filesystem_of, is_file, is_folder, reaching

Crowd = Literal["ignore", "paint"]


@dataclass(frozen=True)
class COCO:
    """One split of a data set in COCO's form; its instances are painted into one mask of classes.

    Attributes:
        root: the folder of the pictures' folder and of annotations/.
        split: "train2017" (or "train"), "val2017" (or "val"), ...
        crowd: what regions of crowds become: the ignore index, below all objects; or their class, as in the paper's
            code.
        overlap: which object is on top: the later one in the file, as in the paper's code, or the smaller one, by its
            `area`, or by its pixels where it has none.
        captions: JSON file by name; empty takes captions_<split>.json, if it is there.
        given: label space by which categories get their class ids, by name. Without one it is COCO's own where the
            names are COCO's, else the categories in the order of their ids.
        labelled: which pictures have masks. Where only some need any, those without annotations have none; otherwise
            all of such a picture is background.
    """

    root: str
    split: str
    crowd: Crowd = "ignore"
    overlap: Overlap = "file"
    captions: str = ""
    given: LabelSpace | None = None
    labelled: Labelled = "all"

    @property
    def labels(self) -> LabelSpace:
        no_categories = self.labelled == "none" and not self._names
        return self.given or (LabelSpace.named("coco") if no_categories else label_space_of(self._names))

    def entries(self) -> pa.Table:
        try:
            return self._entries(self._instances)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            what = f"something has no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{self._path}: not in COCO's form, {what}; images need id, file_name, height and width, annotations "
                "image_id, category_id and segmentation, categories id and name"
            ) from error

    def _entries(self, found: dict[str, Any]) -> pa.Table:
        files: dict[Any, str] = {}
        for image in found["images"]:
            if image["id"] in files:
                raise DataError(
                    f"{self._path}: the images {files[image['id']]} and {image['file_name']} both have the id "
                    f"{image['id']!r}; give each its own, in their annotations too"
                )
            files[image["id"]] = str(image["file_name"])
        if self.labelled == "none" and not self._names and not self.given:
            log.warning(
                "%s lists no categories: the classes of these pictures are taken to be COCO's 80; say with --labels "
                "where they are others", self._path,
            )  # fmt: skip
        objects = {} if self.labelled == "none" else self._objects(found)
        captions = self._captions(files)
        rows = []
        for image in found["images"]:
            key = without_suffix(files[image["id"]])
            # What is painted: numbers and regions, so that reading needs nothing but this.
            has_mask = self.labelled == "all" or image["id"] in objects
            painted = [image.get("height"), image.get("width"), objects.pop(image["id"], [])]
            mask = json.dumps(painted, separators=(",", ":")) if has_mask else ""
            rows.append((key, f"{self._pictures}/{files[image['id']]}", mask, captions.get(key, [])))
        if objects:
            raise DataError(f"{self._path}: annotations of image {next(iter(objects))!r}, but no such image is listed")
        return entry_table(rows)

    def read(self, entry: Mapping[str, Any]) -> Found:
        path, where = str(entry["image"]), str(entry["key"])
        name = path.removeprefix(f"{self._pictures}/")
        # Some programs write back slashes, or names that begin at the root.
        others = [f"{place}/{one}" for one in (name, name.replace("\\", "/")) for place in (self._pictures, self.root)]
        image = read_file(path, "picture", *others)
        if not entry["mask"]:
            return Found(image, None, list(entry["captions"]))
        height, width, objects = json.loads(entry["mask"])
        try:
            size = size_of(height, width)
        except ValueError as error:
            raise PairError("wrong_mask", f"{where}: {error}; correct it in the annotations") from error
        if self.overlap == "area":  # many files give no area, or 0
            objects = [
                (
                    is_object,
                    -(area or int(covered(segmentation, number, size, where).sum())),
                    value,
                    segmentation,
                    number,
                )
                for is_object, area, value, segmentation, number in objects
            ]
        mask = np.zeros(size, np.uint16)
        for _, _, value, segmentation, number in sorted(objects, key=lambda one: one[:2]):  # the lowest first
            mask[covered(segmentation, number, size, where)] = value
        return Found(image, mask, list(entry["captions"]))

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.__dict__.items() if name not in ("_instances", "_names")
        }  # gigabytes

    def _objects(self, found: dict[str, Any]) -> dict[Any, list[tuple[bool, float, int, Any, Any]]]:
        """Image id -> of each object in the order of the file: whether it is above what is ignored, its area (0 where
        that is not known or does not matter), value in the mask, region and number."""
        labels = self.labels
        class_ids = self._class_ids(labels)
        objects: dict[Any, list[tuple[bool, float, int, Any, Any]]] = defaultdict(list)
        for one in found["annotations"]:
            if one["category_id"] not in class_ids:
                raise DataError(
                    f"{self._path}: annotation {one.get('id')} has an unlisted category {one['category_id']!r}"
                )
            ignored = bool(one.get("iscrowd")) and self.crowd == "ignore"
            area = max(0.0, float(one.get("area") or 0)) if self.overlap == "area" else 0.0
            value = labels.ignore_index if ignored else class_ids[one["category_id"]]
            outline = one.get("segmentation")
            objects[one["image_id"]].append((not ignored, area, value, outline, one.get("id")))
        return objects

    @cached_property
    def _path(self) -> str:
        """Of the annotations."""
        year = "" if self.split.endswith("2017") else "2017"
        own = [f"{self.root}/annotations/instances_{self.split}{year}.json" for year in dict.fromkeys(("", year))]
        roboflow = f"{self.root}/{self.split}/_annotations.coco.json"
        alone = [path.replace("/instances_", "/image_info_") for path in own]
        label_studio = f"{self.root}/result.json"  # beside images/, of no split
        if there := [path for path in (*own, roboflow, *alone, label_studio) if is_file(path)]:
            if there[0] in alone and self.labelled != "none":
                raise DataError(f"{there[0]}: lists pictures without masks; say --labelled none to read them")
            return there[0]
        filesystem, inner = filesystem_of(self.root)
        with reaching(self.root):
            found = filesystem.glob(f"{inner}/annotations/instances_*.json")
            found += filesystem.glob(f"{inner}/*/_annotations.coco.json")
        others = ", ".join(sorted(path[len(inner) :].lstrip("/") for path in found))
        raise DataError(
            f"{own[-1]}: missing; it holds the annotations of the split {self.split!r}, or {self.split}/"
            "_annotations.coco.json does" + (f". There are {others}; choose `split` by them" if others else "")
        )

    @cached_property
    def _name(self) -> str:
        """Of the split in the names of files and folders."""
        folder, _, file = self._path.rpartition("/")
        split = file.removeprefix("instances_").removeprefix("image_info_")
        return split.removesuffix(".json") if split != file else folder.rpartition("/")[2]

    @cached_property
    def _pictures(self) -> str:
        """Their folder."""
        folders = [f"{self.root}/{self._name}", f"{self.root}/images/{self._name}", f"{self.root}/images"]
        return next((folder for folder in folders if is_folder(folder)), folders[0])

    @cached_property
    def _instances(self) -> dict[str, Any]:
        found = read_json(self._path, f"it holds the annotations of the split {self.split!r}")
        needed = {"images"} if self.labelled == "none" else {"images", "annotations", "categories"}
        if not isinstance(found, dict) or not found.keys() >= needed:
            raise DataError(f"{self._path}: annotations in COCO's form have the keys images, annotations, categories")
        return found

    @cached_property
    def _names(self) -> dict[Any, str]:
        """Category id -> name."""
        names: dict[Any, str] = {}
        for one in self._instances.get("categories", ()):
            name = one["name"]
            if name is None or names.get(one["id"], str(name)) != str(name):
                problem = "has no name" if name is None else f"is {names[one['id']]!r} and {name!r}"
                raise DataError(f"{self._path}: category {one['id']!r} {problem}; give each its own id and name")
            names[one["id"]] = str(name)
        return names

    def _class_ids(self, labels: LabelSpace) -> dict[Any, int]:
        """Category id -> class id; categories of one name are one class, and one of the background is none."""
        class_ids: dict[Any, int] = {}
        unknown = []
        for number, name in self._names.items():
            if name in labels.classes[1:]:
                class_ids[number] = labels.classes.index(name)
            elif name == labels.classes[0] or is_background(number, name):
                class_ids[number] = 0
                log.warning("category %s, %r, is the background: its objects are painted as class 0", number, name)
            else:
                unknown.append(name)
        if unknown:
            raise DataError(
                f"{self._path}: the categories {', '.join(map(repr, unknown[:10]))} are no classes of label space "
                f"{labels.name!r}; choose the label space that they belong to"
            )
        for name, num in Counter(self._names.values()).items():
            if num > 1:
                log.warning("%d categories are called %r: they are read as one class", num, name)
        return class_ids

    def _captions(self, files: dict[Any, str]) -> dict[str, list[str]]:
        own = f"{self.root}/annotations/captions_{self._name}.json"
        if self.captions or not is_file(own):
            return read_captions(self.captions)
        captions: dict[str, list[str]] = defaultdict(list)
        try:
            for one in read_json(own, "it holds the captions")["annotations"]:
                if one["image_id"] in files and (text := str(one["caption"]).strip()):
                    captions[without_suffix(files[one["image_id"]])].append(text)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{own}: not captions in COCO's form; its `annotations` need image_id and caption"
            ) from error
        return captions


def covered(segmentation: Any, number: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """The pixels of annotation `number`, (H, W) bool.

    Raises:
        PairError: it has no segmentation, or a damaged one.
    """
    if not segmentation:
        raise PairError(
            "wrong_mask",
            f"{where}: annotation {number} has no segmentation, and a box alone does not say which pixels are its; "
            "segment it, or remove it if its pixels are background",
        )
    try:
        return region(segmentation, *size)
    except (ValueError, OverflowError) as error:
        raise PairError(
            "wrong_mask",
            f"{where}: the segmentation of annotation {number} is neither polygons nor run lengths that fit ({error})",
        ) from error


def label_space_of(names: Mapping[Any, str]) -> LabelSpace:
    """COCO's label space where the categories (id -> name) are all of COCO's, else one of their names in the order of
    their ids."""
    coco = LabelSpace.named("coco")
    try:
        ordered = sorted(names.items())
    except TypeError as error:
        raise DataError(f"categories of the annotations: their ids are not alike ({error}); number them") from error
    classes = tuple(dict.fromkeys(name for number, name in ordered if not is_background(number, name)))
    if set(classes) == set(coco.classes[1:]):
        return coco
    try:
        return LabelSpace.custom("categories", classes)
    except ValueError as error:
        raise DataError(f"categories of the annotations: {error}") from error


def is_background(number: Any, name: str) -> bool:
    """Whether a category is what label spaces have as class 0; labelme and others list it, as "_background_" too."""
    return name == "background" or (number == 0 and name.strip("_ ").lower() == "background")
