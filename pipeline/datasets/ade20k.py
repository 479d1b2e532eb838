"""ADE20K as its scene parsing benchmark (ADEChallengeData2016).

ADEChallengeData2016/
  images/{training,validation}/ADE_train_00000001.jpg
  annotations/{training,validation}/ADE_train_00000001.png   grey PNG: 1 to 150 are classes, 0 is anything else
  annotations_caption/{training,validation}.json             captions by file name, as the paper's scripts write
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.datasets.source import Found, entry_table, files_below, read_captions, read_files
from pipeline.storage.files import is_file, is_folder

FOLDERS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class ADE20K:
    """One split of ADE20K. A picture and its mask belong together by their name, never by their place in a listing.

    Attributes:
        root: the folder ADEChallengeData2016 or the one above it.
        split: "training" or "train", "validation" or "val".
        captions: JSON file; empty takes the one in annotations_caption, if it is there.
    """

    root: str
    split: str
    captions: str = ""

    @property
    def labels(self) -> LabelSpace:
        return LabelSpace.named("ade20k")

    def entries(self) -> pa.Table:
        split = FOLDERS.get(self.split, self.split)
        root = self.root.rstrip("/")
        roots = [folder for folder in (root, f"{root}/ADEChallengeData2016") if is_folder(f"{folder}/images/{split}")]
        if not roots:
            raise DataError(
                f"{root}: no folder images/{split} here or in ADEChallengeData2016; correct `root` or `split`"
            )
        own = f"{roots[0]}/annotations_caption/{split}.json"
        captions = read_captions(self.captions or (own if is_file(own) else ""))
        masks = f"{roots[0]}/annotations/{split}"
        return entry_table(
            (stem, image, f"{masks}/{stem}.png", captions.get(stem, []))
            for stem, image in files_below(f"{roots[0]}/images/{split}").items()
        )

    def read(self, entry: Mapping[str, Any]) -> Found:
        return read_files(entry)
