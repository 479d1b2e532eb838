"""YOLO's segments: a text file for each picture, a line for each object.

set/
  data.yaml               path: ., train: images/train, val: images/val, names: {0: person, 1: dog}
  images/train/a.jpg
  labels/train/a.txt      "0 0.1 0.2 0.4 0.2 0.4 0.9": class, then x and y of each corner as shares of width and height
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.base.strict_yaml import load_yaml
from pipeline.datasets.regions import Overlap, painted, region
from pipeline.datasets.source import (
    Found,
    Labelled,
    PairError,
    entry_table,
    files_below,
    in_all_forms,
    read_captions,
    read_file,
)
from pipeline.pictures.photograph import upright_size
from pipeline.storage.files import is_file, is_folder, read_bytes

FILES = ("data.yaml", "dataset.yaml")
NOTHING = "(no objects)"
"""Stands for the text file of a picture that has none because it shows nothing."""
SLACK = 0.01
"""How far outside of its picture a corner may be, by rounding."""


@dataclass(frozen=True)
class YOLO:
    """One split of a set in YOLO's form, with outlines (boxes alone are refused). Class number 0 becomes class id 1.

    Attributes:
        root: the folder with data.yaml.
        split: its key there: train, val, test.
        given: a label space of those names in that order; None makes it of data.yaml.
        overlap: which object is on top: the later one in the file, or the smaller.
        captions: JSON file by name; optional.
        labelled: which pictures have a text file. Of "all" one without has no objects, as YOLO has it; of "some" it
            has no mask.
    """

    root: str
    split: str
    given: LabelSpace | None = None
    overlap: Overlap = "file"
    captions: str = ""
    labelled: Labelled = "all"

    @cached_property
    def labels(self) -> LabelSpace:
        names = self._names
        if self.given:
            if self.given.classes[1:] != names:
                raise DataError(
                    f"{self._path}: its names are {', '.join(names)}, but the classes of {self.given.name!r} "
                    f"are {', '.join(self.given.classes[1:])}; they must be the same, in this order"
                )
            return self.given
        try:
            return LabelSpace.custom("yolo", names)
        except ValueError as error:
            raise DataError(f"{self._path}: {error}") from error

    def entries(self) -> pa.Table:
        captions = read_captions(self.captions)
        rows, num_without = [], 0
        for folder in self._folders:
            images = files_below(folder)
            texts: dict[str, str] = {}
            if self.labelled != "none":
                beside = _with_labels(folder)
                if not is_folder(beside):
                    raise DataError(f"{beside}: no such folder; it should hold a text file for each picture")
                texts = in_all_forms(files_below(beside, suffixes=frozenset({".txt"}), rarer=frozenset()))
            for name, image in images.items():
                num_without += name not in texts
                rows.append((name, image, texts.get(name, NOTHING if self.labelled == "all" else ""), captions))
        if self.labelled == "all" and num_without:
            log.warning(
                "%s of %s pictures have no text file, and count as pictures without objects, as YOLO has it; "
                "--labelled some reads them as pictures without masks", f"{num_without:,}", f"{len(rows):,}",
            )  # fmt: skip
        return entry_table((name, image, mask, texts.get(name, [])) for name, image, mask, texts in rows)

    def read(self, entry: Mapping[str, Any]) -> Found:
        image, where = read_file(entry["image"], "picture"), entry["mask"]
        if not where:
            return Found(image, None, list(entry["captions"]))
        size = upright_size(image, f"picture {entry['image']}")
        text = "" if where == NOTHING else read_file(where, "text file").decode("utf-8", "replace")
        lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        objects = [self._object(words, size, f"{where}, line {number}") for number, words in lines]
        return Found(image, painted(objects, size, self.overlap), list(entry["captions"]))

    def _object(self, words: list[str], size: tuple[int, int], where: str) -> tuple[int, np.ndarray]:
        try:
            number, corners = int(words[0]), np.array(words[1:], float)
            if len(corners) == 4:
                raise ValueError("a box, which does not say which pixels are its object's; export segments")
            if len(corners) < 6 or len(corners) % 2:
                raise ValueError("an outline has x and y of three corners or more")
            if not ((corners >= -SLACK) & (corners <= 1 + SLACK)).all():
                raise ValueError("its corners are not between 0 and 1")
            if not 0 <= number < self.labels.num_classes:
                raise ValueError(f"there is no class {number}; data.yaml names {self.labels.num_classes}")
            points = corners.clip(0, 1).reshape(-1, 2) * size[::-1]
            return number + 1, region([points.ravel().tolist()], *size)
        except ValueError as error:
            raise PairError("wrong_mask", f"{where}: {error}") from error

    @cached_property
    def _path(self) -> str:
        root = self.root.rstrip("/")
        if there := [path for path in (f"{root}/{name}" for name in FILES) if is_file(path)]:
            return there[0]
        raise DataError(f"{root}: no data.yaml here, which names the classes and the folders of each split")

    @cached_property
    def _facts(self) -> dict[str, Any]:
        try:
            facts = load_yaml(read_bytes(self._path).decode())
        except ValueError as error:
            raise DataError(f"{self._path}: {error}") from error
        if not isinstance(facts, dict) or "names" not in facts:
            raise DataError(f"{self._path}: has no `names` of classes")
        return facts

    @cached_property
    def _names(self) -> tuple[str, ...]:
        names = self._facts["names"]
        if not isinstance(names, dict | list):
            raise DataError(f"{self._path}: `names` of classes is a list of them, or says which number each has")
        if isinstance(names, dict):
            if sorted(names, key=str) != sorted(range(len(names)), key=str):
                raise DataError(f"{self._path}: the numbers of `names` are not 0, 1, 2, ...")
            names = [names[number] for number in range(len(names))]
        return tuple(map(str, names))

    @cached_property
    def _folders(self) -> list[str]:
        if not (listed := self._facts.get(self.split)):
            known = ", ".join(key for key in ("train", "val", "test") if self._facts.get(key))
            raise DataError(f"{self._path}: has no split {self.split!r}; there are {known}")
        root, path = self.root.rstrip("/"), str(self._facts.get("path") or ".").rstrip("/")
        found = []
        for one in map(str, listed if isinstance(listed, list) else [listed]):
            # Exports of Roboflow begin with ../ where the folder is this one.
            inner = one.removeprefix("./").removeprefix("../").rstrip("/")
            places = [one.rstrip("/"), f"{path}/{inner}", f"{root}/{path}/{inner}", f"{root}/{inner}"]
            places = [place for place in places if place.startswith(("/", root)) or "://" in place]
            there = [place for place in places if is_folder(place)]
            if not there:
                kind = "a list of files, which is not read: give a folder" if one.endswith(".txt") else "no such folder"
                raise DataError(f"{self._path}: {self.split} is {one!r}, {kind}")
            found.append(there[0])
        return found


def _with_labels(folder: str) -> str:
    """Where the text files of a folder of pictures are: the last folder called images is called labels there."""
    before, images, after = f"{folder}/".rpartition("/images/")
    return f"{before}/labels/{after}".rstrip("/") if images else f"{folder.rpartition('/')[0]}/labels"
