"""Sources: which real data set an ingest run reads, by its config."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from models.labels import LabelSpace
from pipeline.base.config import Config, Workers, absolute
from pipeline.base.errors import ConfigError
from pipeline.datasets.ade20k import ADE20K
from pipeline.datasets.builtin import Builtin
from pipeline.datasets.cityscapes import Cityscapes
from pipeline.datasets.coco import COCO, Crowd, Overlap
from pipeline.datasets.folder import Folder
from pipeline.datasets.hugging_face import HuggingFace
from pipeline.datasets.source import Source
from pipeline.datasets.voc import PascalVOC
from pipeline.runs.config import RunConfig
from pipeline.stages.read import Void


class FolderLayout(Config):
    """Where a plain folder has its pictures and masks; a mask is called as its picture is."""

    images: str = "images"
    """Folder of pictures, below `root`."""
    masks: str = "masks"
    """Folder of masks, below `root`."""
    mask_suffix: str = ""
    """What the name of a mask has more than its picture's, before the dot: "_mask"."""


class Columns(Config):
    """Where a Hugging Face data set has what makes a pair."""

    subset: str = ""
    """Name of a part ("config") of a data set that has several."""

    image: str = "image"
    """Pictures."""
    mask: str = "mask"
    """Pictures of class ids."""
    caption: str = ""
    """Texts or lists of texts; empty: none."""


class IngestConfig(RunConfig):
    """Reads one split of a real data set into PAIR shards."""

    dataset: Literal["builtin", "voc", "coco", "ade20k", "cityscapes", "folder", "huggingface"] = "builtin"
    """"builtin": composited real photographs with exact masks, made on the fly. "coco" takes any set in COCO's form."""
    root: str = ""
    """Folder of the data set, a path or a URL, in the layout that it is published in (docs/data.md); for huggingface a
    folder or a name on the hub."""
    split: str = "train"
    """What the data set calls it: train, val, trainaug, training, train2017, ..."""
    name: str = ""
    """Name of the data set in ids and in the column `dataset`. Folder, huggingface on disk, and sets of your own in
    COCO's form need one: two pairs of one name, split and key count as the same pair."""
    origin: Literal["real", "synthetic"] = "real"
    """What the pairs are: "synthetic" for those of another generator."""
    labels: str = ""
    """Label space of folder, huggingface and coco: voc, coco, ade20k, cityscapes, or a YAML file (docs/weights.md)."""
    pairs: int = Field(0, ge=0)
    """Pairs to read, chosen by their ids; 0: all (of builtin, which has no end, 4,096)."""
    void: Void = "ignore"
    """What pixels of unknown class become: the ignore index, or background as in the paper's code."""
    crowd: Crowd = "ignore"
    """What crowds of COCO become: the ignore index, or their class as in the paper's code ("paint")."""
    overlap: Overlap = "file"
    """Which object of COCO is on top: the later one in the "file", as in the paper's code, or the smaller "area"."""
    exif: Literal["upright", "stored"] = "upright"
    """What the masks of rotated pictures were drawn on, where they fit both: on the picture as viewers turn it, or as
    it is stored."""
    sbd: str = ""
    """Folder `dataset` of SBD, whose masks (cls/*.mat) then go before VOC's."""
    captions: str = ""
    """JSON file {name: text or list of texts}; empty: the captions that the data set ships, if any."""
    mask_values: dict[int, int] = Field(default_factory=dict)
    """Folder, huggingface: raw value in the masks -> class id, such as {255: 1}; values that are not named stay."""
    folder_layout: FolderLayout = FolderLayout()
    """Of dataset folder."""
    columns: Columns = Columns()
    """Of dataset huggingface."""
    revision: str = ""
    """Commit, branch or tag of a data set on the hub."""
    size_px: int = Field(64, ge=32)
    """Side of the square pictures of builtin; all others keep their size."""
    rows_per_shard: int = Field(512, ge=1)
    """Pairs per Parquet file."""
    retry_errors: bool = False
    """Read again what failed in an earlier start of this run."""
    workers: Workers = Workers(num=2)
    """Reading processes."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines, and between points in MLflow."""

    @property
    def dataset_name(self) -> str:
        """What ids and the column `dataset` call it."""
        return self.name or (self.root if self.dataset == "huggingface" else self.dataset)

    @property
    def on_hub(self) -> bool:
        """Whether `root` is a name on the hub, which is no path."""
        return self.dataset == "huggingface" and not os.path.exists(self.root)


def open_source(config: IngestConfig, commit: str = "") -> Source:
    """What the config names; `commit` is of a data set on the hub.

    Raises:
        ConfigError: a key is missing, or set for another data set.
    """
    refuse_keys_of_others(config)
    root, split, captions = _place(config), config.split, config.captions and absolute(config.captions)
    makers: dict[str, Callable[[], Source]] = {
        "builtin": lambda: Builtin(split, config.seed, config.size_px, config.pairs or 4096),
        "voc": lambda: PascalVOC(root, split, config.sbd and absolute(config.sbd), captions),
        "coco": lambda: COCO(
            root, split, config.crowd, config.overlap, captions, label_space(config) if config.labels else None
        ),
        "ade20k": lambda: ADE20K(root, split, captions),
        "cityscapes": lambda: Cityscapes(root, split, captions),
        "folder": lambda: Folder(
            root, label_space(config), **config.folder_layout.dump(), values=config.mask_values, captions=captions
        ),
        "huggingface": lambda: HuggingFace(
            root, split, label_space(config), **config.columns.dump(), values=config.mask_values, revision=commit,
        ),
    }  # fmt: skip
    return makers[config.dataset]()


KEYS_OF = {
    "sbd": ("voc",),
    "crowd": ("coco",),
    "overlap": ("coco",),
    "labels": ("coco", "folder", "huggingface"),
    "mask_values": ("folder", "huggingface"),
    "folder_layout": ("folder",),
    "columns": ("huggingface",),
    "revision": ("huggingface",),
    "captions": ("voc", "coco", "ade20k", "cityscapes", "folder"),
    "size_px": ("builtin",),
}
"""Keys that some data sets alone know."""


def refuse_keys_of_others(config: IngestConfig) -> None:
    """Raises ConfigError for a key that was set and would be ignored, or that is missing."""
    local = config.dataset == "folder" or (config.dataset == "huggingface" and not config.on_hub)
    if local and not config.name:
        raise ConfigError(
            f"name: dataset {config.dataset} needs a name for what lies in {config.root or 'root'}, which ids and "
            "exports know it by"
        )
    if any(value < 0 or class_id < 0 for value, class_id in config.mask_values.items()):
        raise ConfigError(f"mask_values: raw values and class ids are 0 and above, got {config.mask_values}")
    for key, datasets in KEYS_OF.items():
        if config.dataset not in datasets and getattr(config, key) != IngestConfig.model_fields[key].get_default(
            call_default_factory=True
        ):
            raise ConfigError(f"{key}: only for dataset {', '.join(datasets)}, not {config.dataset}; leave it out")


def label_space(config: IngestConfig) -> LabelSpace:
    """Raises ConfigError where there is none."""
    if not config.labels:
        raise ConfigError(
            f"labels: dataset {config.dataset} needs to know its classes: voc, coco, ade20k, cityscapes, or a YAML "
            "file with `name` and `classes`, background first"
        )
    try:
        return LabelSpace.named(config.labels)
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from error


def _place(config: IngestConfig) -> str:
    """`root` as every worker finds it."""
    if config.dataset == "builtin":
        return ""
    if not config.root:
        raise ConfigError(f"root: dataset {config.dataset} needs the folder that it lies in")
    if config.dataset == "huggingface" and "://" in config.root:
        raise ConfigError(f"root: {config.root} is a URL; give a name on the hub, or a folder that all machines see")
    return config.root if config.on_hub else absolute(config.root).rstrip("/")
