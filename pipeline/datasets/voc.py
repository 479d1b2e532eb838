"""Pascal VOC 2012, with the masks of SBD where there are any.

VOCdevkit/VOC2012/
  JPEGImages/2007_000032.jpg
  SegmentationClass/2007_000032.png         palette PNG of class ids; 255 is the border around objects
  SegmentationClassAug/2007_000032.png      SBD's masks, converted to grey PNG
  ImageSets/Segmentation/{train,val,trainval,trainaug}.txt
  ImageSets/Main/{train,trainval,...}.txt   of pictures that mostly have no mask
  ImageSets/Caption/{trainaug,val}.json     captions by name, as the paper's scripts leave them
VOCaug/dataset/                             SBD as it is published
  cls/2008_000002.mat                       GTcls.Segmentation: class ids
  {train,val}.txt
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from models.labels import VOC, LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.datasets.source import (
    Found,
    Labelled,
    PairError,
    entry_table,
    files_below,
    in_all_forms,
    read_captions,
    read_file,
    read_lines,
    without_suffix,
)
from pipeline.pictures.codec import decode_mask
from pipeline.storage.files import is_file, is_folder

NUM_TRAINAUG = 10_582
LISTS, OTHER_LISTS = "ImageSets/Segmentation", "ImageSets/Main"
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class PascalVOC:
    """One split of Pascal VOC 2012.

    A picture takes its mask from SBD where SBD has one, and from VOC otherwise, as the paper's code does; those of SBD
    have no border. VOC's validation pictures keep VOC's own masks, by which everybody is judged (in the paper's code
    they too take SBD's). "trainaug" is VOC's and SBD's training and SBD's validation pictures without VOC's validation
    pictures.

    Attributes:
        root: the folder VOC2012 or one above it.
        split: "train", "val", "trainval" or "trainaug": a list in ImageSets/Segmentation; "trainaug" may be missing
            there. Where not all pictures need masks also a list in ImageSets/Main, and "unlabelled": all pictures that
            have no mask and are in no list of ImageSets/Segmentation. Validation pictures of that are in neither.
        sbd: the folder `dataset` of SBD; empty where its masks are converted, in SegmentationClassAug, or not wanted.
        captions: JSON file; empty takes the one in ImageSets/Caption, if it is there.
        labelled: which pictures have masks.
    """

    root: str
    split: str
    sbd: str = ""
    captions: str = ""
    labelled: Labelled = "all"

    @property
    def labels(self) -> LabelSpace:
        return VOC

    def entries(self) -> pa.Table:
        root = self._folder()
        images = files_below(f"{root}/JPEGImages")
        own_masks = _files(f"{root}/SegmentationClass")
        masks = own_masks | _files(f"{root}/SegmentationClassAug") | self._sbd_masks()
        pictures, images = list(images), in_all_forms(images)
        if self.labelled != "all" and self.split == UNLABELLED:
            listed = set(self._listed_by(f"{root}/{LISTS}", images))
            stems = [stem for stem in pictures if stem not in masks and stem not in listed]
        else:
            stems = self._stems(root, images)
        judged = f"{root}/{LISTS}/val.txt"
        if is_file(judged):
            masks |= {stem: own_masks[stem] for stem in _listed(judged, "", images) if stem in own_masks}
        missing = [stem for stem in stems if stem not in masks]
        if missing and self.labelled == "all":
            log.warning(
                "%d of %d pictures have no mask, %s for one; masks of SBD come with the key `sbd`, or in "
                "SegmentationClassAug/, and --labelled some reads these pictures without", len(missing), len(stems),
                missing[0],
            )  # fmt: skip
        if self.labelled == "none":
            masks = {}
        absent = f"{root}/SegmentationClass/{{}}.png" if self.labelled == "all" else ""
        own = f"{root}/ImageSets/Caption/{self.split}.json"
        captions = read_captions(self.captions or (own if is_file(own) else ""))
        return entry_table(
            (
                stem,
                images.get(stem, f"{root}/JPEGImages/{stem}.jpg"),
                masks.get(stem, absent.format(stem)),
                captions.get(stem, []),
            )
            for stem in stems
        )

    def read(self, entry: Mapping[str, Any]) -> Found:
        image, path = read_file(entry["image"], "picture"), str(entry["mask"])
        if not path:
            return Found(image, None, list(entry["captions"]))
        content = read_file(path, "mask")
        mask = sbd_mask(content, path) if path.endswith(".mat") else decode_mask(content, path)
        return Found(image, mask, list(entry["captions"]))

    def _folder(self) -> str:
        root = self.root.rstrip("/")
        for folder in (root, f"{root}/VOC2012", f"{root}/VOCdevkit/VOC2012"):
            if is_folder(f"{folder}/JPEGImages"):
                return folder
        raise DataError(
            f"{root}: no folder JPEGImages here, in VOC2012 or in VOCdevkit/VOC2012; correct the key `root`"
        )

    def _stems(self, root: str, images: Mapping[str, str]) -> list[str]:
        needs = f"it lists the pictures of the split {self.split!r}"
        own = f"{root}/{LISTS}/{self.split}.txt"
        other = f"{root}/{OTHER_LISTS}/{self.split}.txt"
        if self.labelled != "all" and not is_file(own) and is_file(other):
            judged = set(_listed(f"{root}/{LISTS}/val.txt", f"its pictures stay out of {other}", images))
            return [stem for stem in _listed(other, needs, images) if stem not in judged]
        if self.labelled == "all" and not is_file(own) and (self.split == UNLABELLED or is_file(other)):
            raise DataError(f"split: {self.split} of VOC has pictures without masks; say --labelled none to read them")
        if self.split != "trainaug" or is_file(own):
            return _listed(own, f"{needs}; splits are the names of the files there", images)
        if not self.sbd:
            raise DataError(f"{own}: missing; without it the key `sbd` must name the folder `dataset` of SBD")
        needs = "trainaug is made of VOC's lists and SBD's"
        lists = [f"{root}/{LISTS}/train.txt", f"{self.sbd}/train.txt", f"{self.sbd}/val.txt"]
        stems = {stem for path in lists for stem in _listed(path, needs, images)}
        stems -= set(_listed(f"{root}/{LISTS}/val.txt", needs, images))
        if len(stems) != NUM_TRAINAUG:
            log.warning("trainaug has %d pictures here, the published lists have %d", len(stems), NUM_TRAINAUG)
        return sorted(stems)

    @staticmethod
    def _listed_by(folder: str, images: Mapping[str, str]) -> Iterator[str]:
        """The pictures that any list in a folder names."""
        for path in files_below(folder, suffixes=frozenset({".txt"}), rarer=frozenset()).values():
            yield from _listed(path, "", images)

    def _sbd_masks(self) -> dict[str, str]:
        if not self.sbd:
            return {}
        folder = f"{self.sbd.rstrip('/')}/cls"
        return in_all_forms(files_below(folder, suffixes=frozenset({".mat"}), rarer=frozenset()))


def sbd_mask(content: bytes, where: str) -> np.ndarray:
    """The class ids of a MATLAB file of SBD, (H, W) uint8.

    Raises:
        PairError: damaged, or another structure.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(content), squeeze_me=True, struct_as_record=False)
    except Exception as error:  # the parser trips over damaged files in many ways
        raise PairError(
            "undecodable_input", f"{where}: not a MATLAB file that can be read, {len(content)} bytes ({error})"
        ) from error
    mask = getattr(found.get("GTcls"), "Segmentation", None)
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype.kind not in "iu":
        raise PairError("wrong_mask", f"{where}: has no field GTcls.Segmentation of class ids; is it from SBD's cls/?")
    if not mask.size or mask.min() < 0 or mask.max() > np.iinfo(np.uint16).max:
        raise PairError("wrong_mask", f"{where}: GTcls.Segmentation is empty, or holds values that are no class ids")
    return mask.astype(np.uint8 if mask.max() <= 255 else np.uint16)


def _files(folder: str) -> dict[str, str]:
    return in_all_forms(files_below(folder)) if is_folder(folder) else {}


def _listed(path: str, needs: str, images: Mapping[str, str]) -> list[str]:
    """The pictures that a list names, each once: by the whole line or by its first word (VOC's own lists of classes say
    more after it), with or without folders and suffix."""
    return list(dict.fromkeys(_stem(line, images) for line in read_lines(path, needs)))


def _stem(line: str, images: Mapping[str, str]) -> str:
    first = line.split()[0]
    names = [name for text in (line, first) for name in (text, without_suffix(text))]
    names += [name.rpartition("JPEGImages/")[2] for name in names]
    return next((name for name in names if name in images), first)
