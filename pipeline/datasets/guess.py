"""What a folder of one's own holds: in which form its pictures and masks lie there."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.errors import DataError, MaskError
from pipeline.datasets.folder import without_masks
from pipeline.datasets.labelme import JSON
from pipeline.datasets.registry import DatasetName
from pipeline.datasets.source import PICTURES, RARER, files_below, in_all_forms, read_file, read_json
from pipeline.datasets.yolo import FILES
from pipeline.pictures.mask_colours import ColourError, Colours, MaskKind

IMAGES = ("images", "imgs", "image", "img", "JPEGImages", "photos", "pictures")
MASKS = ("masks", "mask", "labels", "annotations", "SegmentationClass", "gt", "segmentation")
NUM_OPENED = 200
"""Masks whose values are looked at."""


@dataclass(frozen=True)
class Guess:
    """A data set as it seems to be.

    Attributes:
        dataset: the form.
        root: its folder.
        keys: further keys of `ingest`.
        num_pictures, num_masks: files; of yolo, pictures and text files of all splits.
        splits: of yolo: the keys train, val and test that there are.
    """

    dataset: DatasetName
    root: str
    keys: dict[str, Any] = field(default_factory=dict)
    num_pictures: int = 0
    num_masks: int = 0
    splits: tuple[str, ...] = ()


def guess(root: str, images: str = "", masks: str = "", image_suffix: str = "", mask_suffix: str = "") -> Guess:
    """Looks at a folder, on this machine.

    Args:
        root: the folder; "" is the one that holds both others.
        images, masks: folders of pictures and masks, where they are known.
        image_suffix, mask_suffix: of names there, where they are known.

    Raises:
        DataError: no such folder, or nothing that is known; says what would be.
    """
    for folder in filter(None, (root, images, masks)):
        if not Path(folder).is_dir():
            raise DataError(f"there is no folder {folder}")
    if images and masks:
        root = os.path.commonpath([os.path.abspath(images), os.path.abspath(masks)])
        return _folder(root, images, masks, image_suffix, mask_suffix)
    top = Path(root)
    if any((top / name).is_file() for name in FILES):
        from pipeline.base.strict_yaml import load_yaml

        path = next(top / name for name in FILES if (top / name).is_file())
        try:
            facts = load_yaml(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        splits = tuple(key for key in ("train", "val", "test") if isinstance(facts, dict) and facts.get(key))
        pictures = files_below(root, beside=frozenset({".txt", ".yaml", ".cache"}))
        texts = sum(1 for one in top.rglob("*.txt") if "labels" in one.parts)
        return Guess("yolo", root, num_pictures=len(pictures), num_masks=texts, splits=splits)
    for path in (one for one in sorted(top.rglob("*.json")) if not one.name.startswith(".")):
        try:
            found = read_json(str(path), "")
        except DataError:  # notes of something else; a damaged one of the set is told as it is read
            continue
        if not isinstance(found, dict):
            continue
        if "shapes" in found:
            outlines = files_below(root, suffixes=JSON, rarer=frozenset(), beside=PICTURES | RARER)
            return Guess("labelme", root, num_pictures=len(files_below(root, beside=JSON)), num_masks=len(outlines))
        if "annotations" in found and "categories" in found:
            raise DataError(f"{path}: annotations in COCO's form; ingest them by --dataset coco (docs/data.md)")
    there = {one.name: one for one in top.iterdir() if one.is_dir()}
    own = [
        given or next((str(there[name]) for name in names if name in there), "")
        for given, names in ((images, IMAGES), (masks, MASKS))
    ]
    if not all(own):
        raise DataError(
            f"{root}: no folders images/ and masks/, no data.yaml of YOLO and no JSON files of labelme; say --images "
            "and --masks, the folders of pictures and of masks (other sets: docs/data.md)"
        )
    return _folder(root, own[0], own[1], image_suffix, mask_suffix)


def _folder(root: str, images: str, masks: str, image_suffix: str, mask_suffix: str) -> Guess:
    drawn, found = files_below(masks), files_below(images)
    names = list(without_masks(found, images, masks, image_suffix, image_suffix))
    mask_suffix = mask_suffix or usual_suffix(names, list(drawn))
    pictures = without_masks(found, images, masks, image_suffix, mask_suffix)
    layout = {
        "images": os.path.relpath(images, root), "masks": os.path.relpath(masks, root), "mask_suffix": mask_suffix,
    }  # fmt: skip
    layout |= {"image_suffix": image_suffix} if image_suffix else {}
    with_masks = {f"{one}{mask_suffix}" for one in pictures} & in_all_forms(drawn).keys()
    return Guess("folder", root, {"folder_layout": layout}, len(pictures), len(with_masks))


def usual_suffix(pictures: list[str], masks: list[str]) -> str:
    """What the names of most masks have more than those of their pictures; "" where they are the same, or unlike.
    Where both are of one folder, a name does not belong to itself."""
    known, counts = set(pictures), Counter[str]()
    are_same = known == set(masks)
    for name in masks:
        cuts = [name[:end] for end in range(len(name) - are_same, 0, -1)]
        if found := next((cut for cut in cuts if cut in known), ""):
            counts[name[len(found) :]] += 1
    return counts.most_common(1)[0][0] if counts else ""


def values_in(root: str, layout: dict[str, str], kind: MaskKind = "auto") -> tuple[Counter[int], Counter[str]]:
    """The raw values, or the colours, in the masks of a folder, with their pixels; of many masks in some of them.

    Raises:
        DataError: a mask that cannot be read, or of another kind than the others.
    """
    reader = Colours(kind=kind)
    values: Counter[int] = Counter()
    colours: Counter[str] = Counter()
    drawn = files_below(f"{root.rstrip('/')}/{layout['masks']}")
    paths = [path for name, path in drawn.items() if name.endswith(layout.get("mask_suffix", ""))]
    for path in paths[:: max(1, len(paths) // NUM_OPENED)]:
        try:
            found, counts = np.unique(reader.decode(read_file(path, "mask"), path), return_counts=True)
        except ColourError as error:  # it knows none
            colours.update(error.counts)
        else:
            values.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    if values and colours:
        raise MaskError(f"{root}/{layout['masks']}: some masks are in colours and some hold class ids; make them alike")
    return values, colours
