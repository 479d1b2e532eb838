"""What a folder of one's own holds: in which form its pictures and masks lie there."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.base.errors import DataError, MaskError
from pipeline.datasets.labelme import JSON
from pipeline.datasets.registry import DatasetName
from pipeline.datasets.source import PICTURES, RARER, files_below, read_file, read_json
from pipeline.datasets.yolo import FILES
from pipeline.pictures.codec import decode_mask, open_mask
from pipeline.pictures.mask_colours import ColourError, Colours

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


def guess(root: str, images: str = "", masks: str = "") -> Guess:
    """Looks at a folder, on this machine.

    Args:
        root: the folder; "" is the one that holds both others.
        images, masks: folders of pictures and masks, where they are known.

    Raises:
        DataError: no such folder, or nothing that is known; says what would be.
    """
    for folder in filter(None, (root, images, masks)):
        if not Path(folder).is_dir():
            raise DataError(f"there is no folder {folder}")
    if images and masks:
        return _folder(os.path.commonpath([os.path.abspath(images), os.path.abspath(masks)]), images, masks)
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
    first = next((one for one in sorted(top.rglob("*.json")) if not one.name.startswith(".")), None)
    if first and isinstance(found := read_json(str(first), ""), dict):
        if "shapes" in found:
            outlines = files_below(root, suffixes=JSON, rarer=frozenset(), beside=PICTURES | RARER)
            return Guess("labelme", root, num_pictures=len(files_below(root, beside=JSON)), num_masks=len(outlines))
        if "annotations" in found and "categories" in found:
            raise DataError(f"{first}: annotations in COCO's form; ingest them by --dataset coco (docs/data.md)")
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
    return _folder(root, *own)


def _folder(root: str, images: str, masks: str) -> Guess:
    pictures, drawn = files_below(images), files_below(masks)
    layout = {
        "images": os.path.relpath(images, root),
        "masks": os.path.relpath(masks, root),
        "mask_suffix": mask_suffix(list(pictures), list(drawn)),
    }
    return Guess("folder", root, {"folder_layout": layout}, len(pictures), len(drawn))


def mask_suffix(pictures: list[str], masks: list[str]) -> str:
    """What the names of most masks have more than those of their pictures; "" where they are the same, or unlike."""
    known, counts = set(pictures), Counter[str]()
    for name in masks:
        cuts = [name[:end] for end in range(len(name), 0, -1)]
        if found := next((cut for cut in cuts if cut in known), ""):
            counts[name[len(found) :]] += 1
    return counts.most_common(1)[0][0] if counts else ""


def values_in(root: str, layout: dict[str, str]) -> tuple[Counter[int], Counter[str]]:
    """The raw values, and the colours, in the masks of a folder, with their pixels; of many masks in some of them."""
    values: Counter[int] = Counter()
    colours: Counter[str] = Counter()
    paths = list(files_below(f"{root.rstrip('/')}/{layout['masks']}").values())
    for path in paths[:: max(1, len(paths) // NUM_OPENED)]:
        encoded = read_file(path, "mask")
        if _is_coloured(open_mask(encoded, path)):
            try:
                Colours().decode(encoded, path)
            except ColourError as error:
                colours.update(error.counts)
        else:
            mask = decode_mask(encoded, path)
            numbers = Counter({int(value): int((mask == value).sum()) for value in set(mask.reshape(-1).tolist())})
            values.update(numbers)
    if values and colours:
        raise MaskError(f"{root}/{layout['masks']}: some masks are in colours and some hold class ids; make them alike")
    return values, colours


def _is_coloured(picture: Image.Image) -> bool:
    return picture.mode in ("RGB", "RGBA", "LA", "PA", "CMYK")
