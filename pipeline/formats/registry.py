"""Registry: the formats that sets of pairs are exported in, by name.

A new one is a file in this folder and its entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from pipeline.formats.coco import Coco
from pipeline.formats.huggingface import HuggingFace
from pipeline.formats.mds import Mosaic
from pipeline.formats.mmseg import MMSegmentation
from pipeline.formats.part import Format, Tree
from pipeline.formats.webdataset import WebDataset

FormatName = Literal["huggingface", "mmseg", "coco", "webdataset", "mds"]

FORMATS: dict[FormatName, Callable[[Tree], Format]] = {
    "huggingface": HuggingFace,
    "mmseg": MMSegmentation,
    "coco": Coco,
    "webdataset": WebDataset,
    "mds": Mosaic,
}
assert set(FORMATS) == set(get_args(FormatName))
