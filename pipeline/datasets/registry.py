"""Registry: the data sets that can be read, by name.

A new one is a file in this folder and its entry in `DATASETS` (and `DatasetName`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from models.labels import LabelSpace
from pipeline.base import places
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.datasets.ade20k import ADE20K
from pipeline.datasets.builtin import Builtin
from pipeline.datasets.cityscapes import Cityscapes
from pipeline.datasets.coco import COCO, Crowd
from pipeline.datasets.folder import Folder, FolderLayout
from pipeline.datasets.hugging_face import Columns, HuggingFace
from pipeline.datasets.labelme import LabelMe
from pipeline.datasets.parts import PartOf, bounds_of
from pipeline.datasets.regions import Overlap
from pipeline.datasets.source import Labelled, Source
from pipeline.datasets.voc import PascalVOC
from pipeline.datasets.yolo import YOLO
from pipeline.pictures.mask_colours import Colours, MaskKind
from pipeline.storage.labels import has_palette, named_labels

DatasetName = Literal[
    "builtin", "builtin2", "voc", "coco", "ade20k", "cityscapes", "folder", "labelme", "yolo", "huggingface"
]


class SourceConfig(Config):
    """Which data set is read, and how its parts are known; what a job that reads one builds its config on."""

    dataset: DatasetName = "builtin"
    """"builtin": composited real photographs with exact masks, made on the fly; "builtin2": on more photographs, which
    keys name. "coco" takes any set in COCO's form."""
    root: places.NameOrPlace = ""
    """Folder of the data set, a path or a URL, in the layout that it is published in (docs/data.md); for huggingface a
    folder or a name on the hub."""
    split: str = "train"
    """What the data set calls it: train, val, trainaug, training, train2017, ..."""
    name: str = ""
    """Name of the data set in ids and in the column `dataset`. Folder, labelme, yolo, huggingface on disk, and sets of
    your own in COCO's form need one: two pairs of one name, split and key count as the same pair."""
    labels: places.LabelsOrPlace = ""
    """Label space of folder, labelme and huggingface, and of coco and yolo where it is not of their own names: voc,
    coco, ade20k, cityscapes, or a YAML file (docs/weights.md)."""
    pairs: int = Field(0, ge=0)
    """Pairs to read, chosen by their ids; 0: all (of builtin and builtin2, which have no end, 4,096)."""
    part: str = ""
    """Which pairs, as START:STOP in per cent by the hash of their names: 0:80 to train on, 80:90 and 90:100 to be
    judged on, of a set that is not split. A picture stays in its part when others come."""
    part_of: PartOf = "all"
    """What `part` takes a part of: "all" pictures, or the "labelled" ones alone; those without a mask then belong to
    the part that begins at 0, so that none is held out for nothing."""
    crowd: Crowd = "ignore"
    """What crowds of COCO become: the ignore index, or their class as in the paper's code ("paint")."""
    overlap: Overlap = "file"
    """Which object of coco, labelme or yolo is on top: the later one in the "file", as in the paper's code, or the
    smaller "area"."""
    sbd: places.Folder = ""
    """Folder `dataset` of SBD, whose masks (cls/*.mat) then go before VOC's."""
    labelled: Labelled = "all"
    """Which pictures have masks: "all", and one without is an error; "some", and the others become pictures without
    masks; or "none", and masks are not looked for."""
    captions: places.FileOrFolder = ""
    """JSON file {name: text or list of texts}; empty: the captions that the data set ships, if any."""
    mask_values: dict[int, int] = Field(default_factory=dict)
    """Folder, huggingface: raw value in the masks -> class id, such as {255: 1}; values that are not named stay."""
    mask_colours: dict[str, int] = Field(default_factory=dict)
    """Folder, huggingface: colour in masks of colours -> class id, such as {"#ffffff": 255, transparent: 0}, beside the
    `palette` that the file of `labels` states."""
    mask_kind: MaskKind = "auto"
    """Folder, huggingface: what the pixels of masks are: "ids", or "colours"; "auto" takes colours where a mask has
    three channels."""
    folder_layout: FolderLayout = FolderLayout()
    """Of dataset folder."""
    columns: Columns = Columns()
    """Of dataset huggingface."""
    revision: str = ""
    """Commit, branch or tag of a data set on the hub."""
    size_px: int = Field(64, ge=32)
    """Side of the square pictures of builtin and builtin2; all others keep their size."""
    rarest: float = Field(1.0, gt=0, le=1)
    """Builtin, builtin2: how often the last class comes for one of the first; the others lie evenly between, so that
    0.016 makes a long tail."""
    unnamed: float = Field(0.0, ge=0, lt=1)
    """Builtin, builtin2: share of the garments that captions leave out."""

    @field_validator("part")
    @classmethod
    def _is_a_part(cls, part: str) -> str:
        if part:
            bounds_of(part)
        return part

    @field_validator("root")
    @classmethod
    def _is_a_place(cls, root: str, values: ValidationInfo) -> str:
        is_name = not root or isinstance(root, places.Located) or values.data.get("dataset") == "huggingface"
        return root if is_name else places.LocatedFolder(root)

    @property
    def dataset_name(self) -> str:
        """What ids and the column `dataset` call it."""
        return self.name or (places.as_given(self.root) if self.dataset == "huggingface" else self.dataset)

    @property
    def on_hub(self) -> bool:
        """Whether `root` is a name on the hub, which is no path."""
        return self.dataset == "huggingface" and not os.path.exists(self.root)


@dataclass(frozen=True)
class Known:
    """A data set that can be read.

    Attributes:
        open: makes its source from the config, the seed of the run, and the commit of a data set on the hub.
        keys: of SourceConfig that it knows beside `dataset`, `root`, `split`, `name` and `pairs`; others are refused.
        has_unique_keys: a key of its entries names a picture in all its splits: in "train" and "trainval" it is the
            same pair.
        if_void: what may be wrong where its masks hold little but void.
        is_made: pairs are made on the fly, by split, seed and size: it has no `root`, and `pairs` of them.
    """

    open: Callable[[SourceConfig, int, str], Source]
    keys: tuple[str, ...] = ()
    has_unique_keys: bool = False
    if_void: str = ""
    is_made: bool = False


DATASETS: dict[DatasetName, Known] = {
    "builtin": Known(
        lambda config, seed, commit: Builtin(
            config.split, seed, config.size_px, config.pairs or 4096, version=1, labelled=config.labelled,
            rarest=config.rarest, unnamed=config.unnamed,
        ),
        ("size_px", "rarest", "unnamed", "labelled"),
        is_made=True,
    ),
    "builtin2": Known(
        lambda config, seed, commit: Builtin(
            config.split, seed, config.size_px, config.pairs or 4096, version=2, labelled=config.labelled,
            rarest=config.rarest, unnamed=config.unnamed,
        ),
        ("size_px", "rarest", "unnamed", "labelled"),
        is_made=True,
    ),
    "voc": Known(
        lambda config, seed, commit: PascalVOC(
            config.root, config.split, config.sbd, config.captions, config.labelled
        ),
        ("sbd", "captions", "labelled"),
        has_unique_keys=True,
    ),
    "coco": Known(
        lambda config, seed, commit: COCO(
            config.root, config.split, config.crowd, config.overlap, config.captions,
            label_space(config) if config.labels else None, config.labelled,
        ),
        ("crowd", "overlap", "labels", "captions", "labelled"),
        has_unique_keys=True,
    ),
    "ade20k": Known(
        lambda config, seed, commit: ADE20K(config.root, config.split, config.captions),
        ("captions",),
        has_unique_keys=True,
    ),
    "cityscapes": Known(
        lambda config, seed, commit: Cityscapes(config.root, config.split, config.captions),
        ("captions",),
        has_unique_keys=True,
        if_void="do files called _gtFine_labelIds.png hold train ids? They must be the label ids as published",
    ),
    "folder": Known(
        lambda config, seed, commit: Folder(
            config.root,
            label_space(config),
            **config.folder_layout.dump(),
            values=config.mask_values,
            captions=config.captions,
            labelled=config.labelled,
            colours=colours_of(config),
        ),
        ("labels", "mask_values", "mask_colours", "mask_kind", "folder_layout", "captions", "labelled"),
    ),
    "labelme": Known(
        lambda config, seed, commit: LabelMe(
            config.root, label_space(config) if config.labels else None, config.overlap, config.captions,
            config.labelled,
        ),
        ("overlap", "labels", "captions", "labelled"),
    ),
    "yolo": Known(
        lambda config, seed, commit: YOLO(
            config.root, config.split, label_space(config) if config.labels else None, config.overlap,
            config.captions, config.labelled,
        ),
        ("overlap", "labels", "captions", "labelled"),
    ),
    "huggingface": Known(
        lambda config, seed, commit: HuggingFace(
            config.root, config.split, label_space(config), **config.columns.dump(), values=config.mask_values,
            revision=commit, labelled=config.labelled, colours=colours_of(config),
        ),
        ("labels", "mask_values", "mask_colours", "mask_kind", "columns", "revision", "labelled"),
    ),
}  # fmt: skip
assert set(DATASETS) == set(get_args(DatasetName))


def open_source(config: SourceConfig, seed: int = 0, commit: str = "") -> Source:
    """What the config names; `commit` is of a data set on the hub.

    Raises:
        ConfigError: a key is missing, or set for another data set.
    """
    refuse_keys_of_others(config)
    if not DATASETS[config.dataset].is_made and not config.root:
        raise ConfigError(f"root: dataset {config.dataset} needs the folder that it lies in")
    if config.dataset == "huggingface" and "://" in config.root:
        raise ConfigError(f"root: {config.root} is a URL; give a name on the hub, or a folder that all machines see")
    return DATASETS[config.dataset].open(config, seed, commit)


def refuse_keys_of_others(config: SourceConfig) -> None:
    """Raises ConfigError for a key that was set and would be ignored, or that is missing."""
    local = config.dataset in ("folder", "labelme", "yolo") or (config.dataset == "huggingface" and not config.on_hub)
    if local and not config.name:
        raise ConfigError(f"name: give the data in {config.root or 'root'} a name; ids and exports use it")
    if any(not 0 <= value <= 65535 for pair in config.mask_values.items() for value in pair):
        raise ConfigError(f"mask_values: raw values and class ids are 0 and above, to 65535, got {config.mask_values}")
    for key in dict.fromkeys(key for known in DATASETS.values() for key in known.keys):
        default = SourceConfig.model_fields[key].get_default(call_default_factory=True)
        if key not in DATASETS[config.dataset].keys and getattr(config, key) != default:
            owners = [name for name, known in DATASETS.items() if key in known.keys]
            raise ConfigError(f"{key}: only for dataset {', '.join(owners)}, not {config.dataset}; leave it out")


def label_space(config: SourceConfig) -> LabelSpace:
    """Raises ConfigError where there is none."""
    if not config.labels:
        raise ConfigError(
            f"labels: dataset {config.dataset} needs to know its classes: voc, coco, ade20k, cityscapes, or a YAML "
            "file with `name` and `classes`, background first"
        )
    try:
        return named_labels(config.labels)
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from error


def colours_of(config: SourceConfig) -> Colours:
    """Which class each colour in masks is; raises ConfigError for what is no colour or no class."""
    labels = label_space(config)
    for name, value in config.mask_colours.items():
        if not (0 <= value <= labels.num_classes or value == labels.ignore_index):
            raise ConfigError(
                f"mask_colours: {name} is {value}, but {labels.name} has class ids 0 to {labels.num_classes} and the "
                f"ignore index {labels.ignore_index}"
            )
    try:
        return Colours.of(labels, has_palette(config.labels), config.mask_colours, config.mask_kind)
    except ValueError as error:
        raise ConfigError(f"mask_colours: {error}") from error
