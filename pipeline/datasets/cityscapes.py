"""Cityscapes, fine annotations.

leftImg8bit/{train,val}/aachen/aachen_000000_000019_leftImg8bit.png
gtFine/{train,val}/aachen/aachen_000000_000019_gtFine_labelIds.png
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.log import log
from pipeline.datasets.source import Found, entry_table, files_below, read_captions, read_files

# The 19 label ids that are evaluated, in the order of their train ids; ours are one higher, since 0 is "other".
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CLASS_IDS = {label_id: class_id for class_id, label_id in enumerate(LABEL_IDS, start=1)}
IMAGE_SUFFIX, MASK_SUFFIX = "_leftImg8bit", "_gtFine_labelIds.png"


@dataclass(frozen=True)
class Cityscapes:
    """One split of Cityscapes; label ids that are not evaluated are void.

    Attributes:
        root: the folder of leftImg8bit and gtFine.
        split: "train" or "val"; the masks of "test" are not public.
        captions: JSON file, by file name without city; optional.
    """

    root: str
    split: str
    captions: str = ""

    @property
    def labels(self) -> LabelSpace:
        return LabelSpace.named("cityscapes")

    def entries(self) -> pa.Table:
        root, captions = self.root.rstrip("/"), read_captions(self.captions)
        rows, others = [], []
        for name, image in files_below(f"{root}/leftImg8bit/{self.split}").items():
            if name.endswith(IMAGE_SUFFIX):
                key = name.removesuffix(IMAGE_SUFFIX)
                texts = captions.get(name.rsplit("/", 1)[-1], [])
                rows.append((key, image, f"{root}/gtFine/{self.split}/{key}{MASK_SUFFIX}", texts))
            else:
                others.append(image)
        if others:
            log.warning(
                "%d pictures whose names do not end in %s were passed over, such as %s", len(others), IMAGE_SUFFIX,
                others[0],
            )  # fmt: skip
        return entry_table(rows)

    def read(self, entry: Mapping[str, Any]) -> Found:
        return read_files(entry, CLASS_IDS, others=self.labels.ignore_index)
