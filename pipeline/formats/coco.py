"""COCO: panoptic and instance annotations, and captions, as COCO's own tools and most detectors read them.

A mask of classes knows no objects. What stands for one is a connected piece of a class (8 neighbours): two objects that
touch are one of it, and one that something crosses is two. Pixels that are ignored have no annotation: void in the
panoptic pictures, while `instances_{split}.json` cannot say of a pixel that it is unknown. Where captions name
the class of a segment, `phrase` is what they call it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import IO, Any

import cc3d
import numpy as np
from pycocotools import mask as rle

from models.labels import LabelSpace
from pipeline.formats.card import write_card
from pipeline.formats.part import Pair, Part, Record, Records, Tree
from pipeline.pictures.codec import encode_image
from pipeline.prompts.classes import phrases_of
from pipeline.storage.publish import publish_file, write_bytes

READING = """\
from pycocotools.coco import COCO

coco = COCO("annotations/instances_{split}.json")
for image in coco.loadImgs(coco.getImgIds()):
    picture = f"images/{split}/{image['file_name']}"
    objects = coco.loadAnns(coco.getAnnIds(image["id"]))
    masks = [coco.annToMask(one) for one in objects]
"""

THINGS = LabelSpace.named("coco").classes[1:]
UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""Of COCO's official category ids, those between 1 and 90 that were planned and never annotated."""


@dataclass(frozen=True)
class Coco:
    """`images/{split}/`, and in `annotations/` the files `panoptic_{split}.json` (with a folder of PNG of that name),
    `instances_{split}.json` and `captions_{split}.json`."""

    tree: Tree

    def write(self, part: Part, pairs: Iterable[Pair]) -> Any:
        return [self._write_pair(part.split, pair) for pair in pairs]

    def _write_pair(self, split: str, pair: Pair) -> dict[str, Any]:
        ids, segments = segments_of(pair.mask, self.tree.labels)
        to_category = category_ids(self.tree.labels)
        phrases = {to_category[one]: text for one, text in phrases_of(pair.captions, self.tree.labels).items()}
        for one in segments:
            if one["category_id"] in phrases:
                one["phrase"] = phrases[one["category_id"]]
        name = f"{pair.name}.{pair.suffix}"
        write_bytes(f"{self.tree.folder}/images/{split}/{name}", pair.image)
        write_bytes(
            f"{self.tree.folder}/annotations/panoptic_{split}/{pair.name}.png", encode_image(segment_picture(ids))
        )
        height, width = pair.mask.shape
        return {
            "image": {"id": pair.number, "file_name": name, "height": height, "width": width},
            "panoptic": f"{pair.name}.png",
            "segments": segments,
            "captions": pair.captions,
        }

    def finish(self, records: Records) -> None:
        for split, parts in records.items():
            heads: dict[str, dict[str, Any]] = {}
            for kind in ANNOTATIONS:
                heads[kind] = {"info": {"description": self.tree.name}, "licenses": []}
                if kind != "captions":
                    heads[kind]["categories"] = categories(self.tree.labels, with_stuff=kind == "panoptic")
            paths = {kind: f"{self.tree.folder}/annotations/{kind}_{split}.json" for kind in ANNOTATIONS}
            _publish_all(paths, partial(_write_json, heads=heads, parts=parts))
        write_card(self.tree, records, READING)


def categories(labels: LabelSpace, with_stuff: bool) -> list[dict[str, Any]]:
    """The classes as COCO's categories: all but 0 are things; the background is stuff, where it is a class."""
    return [
        {
            "id": category,
            "name": labels.classes[class_id],
            "supercategory": labels.classes[class_id],
            "isthing": int(class_id > 0),
            "color": list(labels.palette[class_id]),
        }
        for class_id, category in category_ids(labels).items()
        if class_id or with_stuff
    ]


def category_ids(labels: LabelSpace) -> dict[int, int]:
    """Class id -> category id: COCO's own where the classes are COCO's, else the same number. The background, where it
    is a class, comes after the highest."""
    own = coco_category_ids() if labels.classes[1:] == THINGS else range(1, len(labels.classes))
    ids = dict(zip(range(1, len(labels.classes)), own, strict=True))
    return ids | ({0: max(own) + 1} if labels.zero == "background" else {})


def segments_of(mask: np.ndarray, labels: LabelSpace) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The segments of a mask, (H, W) class ids.

    Returns:
        (H, W) uint32 segment ids from 1, 0 where the mask is ignored or other; and the segments in that order, as COCO
        has them: `id`, `category_id`, `area` (pixels), `bbox` (x, y, width, height), and `counts` (RLE) of things.
    """
    to_category = category_ids(labels)
    things = np.where(mask == labels.ignore_index, 0, mask)
    ids = cc3d.connected_components(things, connectivity=8).astype(np.uint32)
    num_things = int(ids.max())
    if 0 in to_category:
        ids[mask == 0] = num_things + 1
    found: Any = cc3d.statistics(ids)
    segments = []
    for segment in range(1, len(found["voxel_counts"])):
        rows, columns = box = found["bounding_boxes"][segment]
        one = {
            "id": segment,
            "category_id": to_category[int(mask[box][ids[box] == segment][0])],
            "area": int(found["voxel_counts"][segment]),
            "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
        }
        if segment <= num_things:
            one["counts"] = rle.encode(np.asfortranarray(ids == segment, np.uint8))["counts"].decode()
        segments.append(one)
    return ids, segments


def segment_picture(ids: np.ndarray) -> np.ndarray:
    """(H, W) segment ids -> (H, W, 3) uint8: id = R + 256 G + 65536 B."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def _panoptic(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    segments = [
        {name: value for name, value in one.items() if name != "counts"} | {"iscrowd": 0} for one in made["segments"]
    ]
    yield {"image_id": made["image"]["id"], "file_name": made["panoptic"], "segments_info": segments}


def _instances(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    size = [made["image"]["height"], made["image"]["width"]]
    for one in made["segments"]:
        if "counts" in one:
            shape = {"segmentation": {"size": size, "counts": one["counts"]}, "iscrowd": 0}
            yield {
                "image_id": made["image"]["id"],
                **shape,
                **{name: one[name] for name in ("category_id", "area", "bbox", "phrase") if name in one},
            }


def _captions(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for text in made["captions"]:
        yield {"image_id": made["image"]["id"], "caption": text}


ANNOTATIONS: dict[str, Callable[[dict[str, Any]], Iterator[dict[str, Any]]]] = {
    "panoptic": _panoptic,
    "instances": _instances,
    "captions": _captions,
}
"""By file: what is noted of a pair -> its annotations there, without the ids that number those of the file."""


def _publish_all(
    paths: Mapping[str, str], write: Callable[[dict[str, str]], None], drafts: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Makes several files from what `write` puts into as many drafts, by name, each whole or not at all."""
    if not (left := [name for name in paths if name not in drafts]):
        write(dict(drafts))
        return
    publish_file(paths[left[0]], lambda draft: _publish_all(paths, write, {**drafts, left[0]: draft}))


def _write_json(drafts: Mapping[str, str], heads: Mapping[str, dict[str, Any]], parts: Iterable[Record]) -> None:
    """Writes the annotation files of a split (path by kind), going through its records once, one in memory at a time:
    those of a million pairs would not fit. Images wait in a file of their own, since each list is written in one go."""
    with ExitStack() as opened:
        files = {kind: opened.enter_context(open(path, "wb")) for kind, path in drafts.items()}
        images = opened.enter_context(tempfile.TemporaryFile())
        for kind, file in files.items():
            file.write(json.dumps(heads[kind]).removesuffix("}").encode() + b',\n"annotations": [')
        numbers = {kind: count(1) for kind in files}
        for place, made in enumerate((made for part in parts for made in part["made"]), 1):
            _append(images, made["image"], place)
            for kind, file in files.items():
                for one in ANNOTATIONS[kind](made):
                    number = next(numbers[kind])
                    _append(file, one if kind == "panoptic" else {"id": number, **one}, number)
        for file in files.values():
            images.seek(0)
            file.write(b'],\n"images": [')
            shutil.copyfileobj(images, file)
            file.write(b"]}\n")


def _append(file: IO[bytes], value: Mapping[str, Any], number: int) -> None:
    """Adds a value to a list in JSON, as its `number`-th, from 1."""
    file.write((b",\n" if number > 1 else b"\n") + json.dumps(value, ensure_ascii=False).encode())


def coco_category_ids() -> tuple[int, ...]:
    """The official id of each of the 80 things, in the order of the label space "coco": class id 1 + its place here."""
    return tuple(category for category in range(1, 91) if category not in UNUSED_IDS)
