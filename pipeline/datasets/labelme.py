"""Polygons of labelme: a JSON file beside each picture.

any/folder/
  street.jpg
  street.json   "shapes": outlines with their labels, "imageHeight", "imageWidth", and "imagePath" of the picture
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.datasets.regions import MAX_OUTLINE_PX, Overlap, painted, region, size_of
from pipeline.datasets.source import (
    PICTURES,
    RARER,
    Found,
    Labelled,
    PairError,
    entry_table,
    files_below,
    in_all_forms,
    read_captions,
    read_file,
    read_json,
)
from pipeline.pictures.codec import decode_mask

JSON = frozenset({".json"})
BACKGROUND, IGNORED = "_background_", "__ignore__"
"""What labelme calls pixels of no object, and those that nobody is to learn from."""


@dataclass(frozen=True)
class LabelMe:
    """Pictures with a JSON file of the same name beside them, in a folder and those in it.

    Attributes:
        root: the folder.
        labels: whose names the labels are; None says which there are.
        overlap: which outline is on top: the later one in the file, or the smaller.
        captions: JSON file by name; optional.
        labelled: which pictures have a JSON file; a picture of "some" that has none has no mask.
    """

    root: str
    given: LabelSpace | None
    overlap: Overlap = "file"
    captions: str = ""
    labelled: Labelled = "all"

    @property
    def labels(self) -> LabelSpace:
        assert self.given, "entries() asks for it first"
        return self.given

    def entries(self) -> pa.Table:
        captions = read_captions(self.captions)
        images = files_below(self.root, beside=JSON)
        if self.labelled == "none":
            self._require_labels({})
            return entry_table((name, image, "", captions.get(name, [])) for name, image in images.items())
        outlines = files_below(self.root, suffixes=JSON, rarer=frozenset(), beside=PICTURES | RARER)
        self._require_labels(outlines)
        alone = outlines.keys() - in_all_forms(images).keys()
        if alone:
            log.warning(
                "%s: %d JSON files have no picture of their name beside them, such as %s", self.root, len(alone),
                min(alone),
            )  # fmt: skip
        found = in_all_forms(outlines)
        if not found.keys() & images.keys():
            raise DataError(
                f"{self.root}: no picture has a JSON file of its name beside it (such as {next(iter(images))} and "
                f"{next(iter(outlines))}); labelme saves them so"
            )
        missing = f"{self.root.rstrip('/')}/{{}}.json" if self.labelled == "all" else ""
        return entry_table(
            (name, image, found.get(name, missing.format(name)), captions.get(name, []))
            for name, image in images.items()
        )

    def read(self, entry: Mapping[str, Any]) -> Found:
        image = read_file(entry["image"], "picture")
        if not entry["mask"]:
            return Found(image, None, list(entry["captions"]))
        where = entry["mask"]
        try:
            found = json.loads(read_file(where, "JSON file"))
            size = size_of(found["imageHeight"], found["imageWidth"])
            shapes = list(map(dict, found["shapes"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PairError("wrong_mask", f"{where}: not a file of labelme ({error})") from error
        objects = [(self._value(shape, where), covered(shape, size, where)) for shape in shapes]
        return Found(image, painted(objects, size, self.overlap), list(entry["captions"]))

    def _value(self, shape: Mapping[str, Any], where: str) -> int:
        label = str(shape.get("label"))
        if label in self.labels.classes:
            return self.labels.classes.index(label)
        if label in (BACKGROUND, IGNORED):
            return 0 if label == BACKGROUND else self.labels.ignore_index
        raise PairError(
            "wrong_mask",
            f"{where}: the label {label!r} is no class of {self.labels.name!r}; add it to the file of `labels`, or "
            "correct it here",
        )

    def _require_labels(self, outlines: Mapping[str, str]) -> None:
        if self.given:
            return
        counts = labels_in(outlines)
        names = ", ".join(json.dumps(name, ensure_ascii=False) for name in sorted(counts))
        told = ", ".join(f"{name} ({num:,})" for name, num in counts.most_common())
        raise DataError(
            f"labels: the outlines are labelled {told or '(nothing)'}; write a YAML file with `name: NAME` and "
            f"`classes: [background{', ' if names else ''}{names}]`, whose order is that of the ids, and give it as "
            "--labels"
        )


def labels_in(outlines: Mapping[str, str]) -> Counter[str]:
    """How often each label is in JSON files of labelme (paths by name), those of the background aside.

    Raises:
        DataError: a file that is none of labelme.
    """
    counts: Counter[str] = Counter()
    for path in outlines.values():
        try:
            counts.update(str(shape["label"]) for shape in read_json(path, "it holds outlines")["shapes"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: not a file of labelme ({error}); leave it out of this folder") from error
    return Counter({name: num for name, num in counts.items() if name not in (BACKGROUND, IGNORED)})


def covered(shape: Mapping[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    """The pixels of one shape of labelme, (H, W) bool.

    Raises:
        PairError: a shape without an area (point, line), or one that is damaged.
    """
    kind, label = shape.get("shape_type") or "polygon", shape.get("label")
    try:
        points = np.array(shape["points"], float).reshape(-1, 2)
        if not (np.abs(points) <= MAX_OUTLINE_PX).all():  # nor is NaN
            raise ValueError("a corner is no finite number, or far outside the picture")
        if kind == "polygon":
            return region([points.ravel().tolist()], *size)
        if kind == "rectangle":
            (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
            return region([[left, top, right, top, right, bottom, left, bottom]], *size)
        if kind == "circle":
            (x, y), (edge_x, edge_y) = points
            rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
            inside: np.ndarray = np.hypot(columns - x, rows - y) <= np.hypot(edge_x - x, edge_y - y)
            return inside
        if kind == "mask":
            return _pasted(str(shape["mask"]), points, size, where)
    except (ValueError, KeyError, TypeError, OverflowError, binascii.Error, DataError) as error:
        raise PairError("wrong_mask", f"{where}: the {kind} of {label!r} is damaged ({error})") from error
    raise PairError(
        "wrong_mask", f"{where}: a {kind} of {label!r} covers no area; draw a polygon, or remove it from the file"
    )


def _pasted(text: str, points: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """A shape of kind "mask": a PNG, whose upper left corner is the first point."""
    if not len(points):
        raise ValueError("it has no corner")
    part = decode_mask(base64.b64decode(text, validate=True), where) > 0
    left, top = points[0].round().astype(int).tolist()
    if left < 0 or top < 0 or top + part.shape[0] > size[0] or left + part.shape[1] > size[1]:
        raise ValueError("it lies outside of its picture")
    whole = np.zeros(size, bool)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole
