"""A folder of pictures beside a folder of masks, with a label space of one's own."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.config import Config
from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.datasets.source import (
    Found,
    Labelled,
    entry_table,
    files_below,
    in_all_forms,
    read_captions,
    read_files,
)
from pipeline.pictures.mask_colours import Colours


class FolderLayout(Config):
    """Where a plain folder has its pictures and masks; a mask is called as its picture is."""

    images: str = "images"
    """Folder of pictures, below `root`."""
    masks: str = "masks"
    """Folder of masks, below `root`. It may lie in that of the pictures, or be the same where a suffix tells them
    apart."""
    image_suffix: str = ""
    """What the name of a picture ends with and its mask's does not, before the dot: "_image" of x_image.jpg and
    x_mask.png. Other pictures are passed over."""
    mask_suffix: str = ""
    """What the name of a mask has more than its picture's, before the dot: "_mask"."""


@dataclass(frozen=True)
class Folder:
    """Pictures and masks of one name in two folders; folders inside them count as part of the name.

    Attributes:
        root: holds both.
        images, masks: the folders, below `root`.
        image_suffix, mask_suffix: what the names of a picture and of its mask end with beside what they share.
        values: raw value in the masks -> class id; values that it does not name stay.
        colours: which class each colour is, for masks in colours.
        captions: JSON file by name; optional.
        labelled: which pictures have masks; where none has, there need be no folder of masks.
    """

    root: str
    labels: LabelSpace
    images: str = "images"
    masks: str = "masks"
    image_suffix: str = ""
    mask_suffix: str = ""
    values: Mapping[int, int] = field(default_factory=dict)
    captions: str = ""
    labelled: Labelled = "all"
    colours: Colours = field(default_factory=Colours)

    def entries(self) -> pa.Table:
        root, captions = self.root.rstrip("/"), read_captions(self.captions)
        images = self._pictures(f"{root}/{self.images}".rstrip("/"))
        if self.labelled == "none":
            return entry_table((name, image, "", captions.get(name, [])) for name, image in images.items())
        drawn = files_below(f"{root}/{self.masks}")
        masks, wanted = in_all_forms(drawn), {f"{name}{self.mask_suffix}" for name in images}
        if not wanted & masks.keys():
            raise DataError(
                f"{root}: no mask in {self.masks}/ has the name of a picture in {self.images}/ (such as "
                f"{next(iter(images))} and {next(iter(masks))}); correct `folder_layout.images`, `.masks`, "
                "`.image_suffix` or `.mask_suffix`; pictures alone are read with --labelled none"
            )
        known = in_all_forms(dict.fromkeys(wanted)).keys() | ({*images} if self.images == self.masks else set())
        if self.labelled == "some" and (lost := sorted(drawn.keys() - known)):
            log.warning(
                "%s: %s belong to no picture in %s/, such as %s; if they should, correct folder_layout.mask_suffix",
                root, f"{len(lost):,} masks in {self.masks}/", self.images, lost[0],
            )  # fmt: skip
        missing = f"{root}/{self.masks}/{{}}.png" if self.labelled == "all" else ""
        return entry_table(
            (
                name,
                image,
                masks.get(f"{name}{self.mask_suffix}", missing.format(f"{name}{self.mask_suffix}")),
                captions.get(name, []),
            )
            for name, image in images.items()
        )

    def read(self, entry: Mapping[str, Any]) -> Found:
        return read_files(entry, self.values, decode=self.colours.decode)

    def _pictures(self, folder: str) -> dict[str, str]:
        """Paths of the pictures by what their names share with those of their masks."""
        found = files_below(folder)
        chosen = without_masks(found, self.images, self.masks, self.image_suffix, self.mask_suffix)
        if not self.image_suffix:
            return chosen
        if not chosen:
            raise DataError(
                f"{folder}: no picture's name ends with {self.image_suffix!r} (such as {next(iter(found))}); correct "
                "`folder_layout.image_suffix`"
            )
        if others := len(found) - len(chosen):
            log.info(
                "%s: %s pictures that do not end with %r are passed over", folder, f"{others:,}", self.image_suffix
            )
        return chosen


def without_masks(
    found: Mapping[str, str], images: str, masks: str, image_suffix: str, mask_suffix: str
) -> dict[str, str]:
    """Files of the folder `images`, by name -> those that are pictures, by what their names share with those of their
    masks; masks may lie among them, in a folder of theirs or under the names of pictures and more."""
    place = posixpath.relpath(masks or ".", images or ".")
    if place != ".":
        found = {name: path for name, path in found.items() if not name.startswith(f"{place}/")}
    pictures = {name.removesuffix(image_suffix): path for name, path in found.items() if name.endswith(image_suffix)}
    if place != "." or image_suffix == mask_suffix:
        return pictures
    drawn = {f"{name}{mask_suffix}" for name in pictures}
    return {name: path for name, path in pictures.items() if f"{name}{image_suffix}" not in drawn}
