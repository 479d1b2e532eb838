"""MMSegmentation: the folders of Pascal VOC, and configs that train on them.

MMSegmentation reads masks as 8 bits and ignores 255. The masks here hold the ids of the label space as they are, only
the ignore index becomes 255. Where 0 is no class, `reduce_zero_label` of the data set says so, once: the pipelines take
it from there, and the masks are not reduced.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pprint import pformat
from typing import IO, Any

import numpy as np
from PIL import Image

from models.labels import LabelSpace
from pipeline.base.errors import ConfigError
from pipeline.formats.card import write_card
from pipeline.formats.part import SUFFIXES, Pair, Part, Record, Records, Tree
from pipeline.storage.publish import publish, write_bytes

IGNORED = 255
LISTS = {
    "train": "ImageSets/Segmentation/train.txt",
    "validation": "ImageSets/Segmentation/val.txt",
    "test": "ImageSets/Segmentation/test.txt",
}
READING = """\
from mmengine.config import Config
from mmengine.runner import Runner

config = Config.fromfile("configs/mask2former.py")
config.work_dir = "work"
Runner.from_cfg(config).train()
"""
MODELS = {
    "mask2former": (
        "mmseg::mask2former/mask2former_swin-s_8xb2-160k_ade20k-512x512.py",
        "decode_head=dict(num_classes=num_classes, loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]))",
    ),
    "deeplabv3": (
        "mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512.py",
        "decode_head=dict(num_classes=num_classes), auxiliary_head=dict(num_classes=num_classes)",
    ),
}
"""Config: the config that it is based on, and what of the model goes by the number of classes."""

LOOP = ("dataloader", "cfg", "evaluator")
"""What MMEngine wants of a loop all together, or none of it."""

# The names begin with `pairs`, because no two bases of a config may define the same one.
DATASET = """\
pairs_root = '{here}/..'
pairs_metainfo = dict(
    classes={classes},
    palette={palette})
pairs_train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]
pairs_test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
# LoadAnnotations takes reduce_zero_label from here, so it is said once; the masks are not reduced.
pairs = dict(
    type='BaseSegDataset',
    data_root=pairs_root,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    img_suffix='{suffix}',
    seg_map_suffix='.png',
    reduce_zero_label={reduced},
    metainfo=pairs_metainfo)
{sets}
"""
MODEL = """\
_base_ = ['{base}', './dataset.py']
num_classes = len(_base_.pairs_metainfo['classes'])
model = dict({model})
{loaders}
"""


@dataclass(frozen=True)
class MMSegmentation:
    """`JPEGImages/`, `SegmentationClass/` (palette PNG), `ImageSets/Segmentation/` and `configs/`.

    Raises:
        ConfigError: classes that do not fit 8 bits, or pictures that are to keep their formats: the tree has one.
    """

    tree: Tree

    def __post_init__(self) -> None:
        if self.tree.labels.num_classes >= IGNORED:
            raise ConfigError(
                f"format mmseg: MMSegmentation reads masks as 8 bits, but label space {self.tree.labels.name!r} has "
                f"{self.tree.labels.num_classes} classes and {self.tree.labels.classes[0]!r}; export as huggingface, "
                "webdataset or coco"
            )
        if self.tree.image_format == "keep":
            raise ConfigError("format mmseg: all pictures have one suffix; set image_format to png, webp or jpeg")

    @property
    def suffix(self) -> str:
        assert self.tree.image_format != "keep"
        return "." + SUFFIXES[self.tree.image_format]

    def write(self, part: Part, pairs: Iterable[Pair]) -> Any:
        names = []
        for pair in pairs:
            write_bytes(f"{self.tree.folder}/JPEGImages/{pair.name}{self.suffix}", pair.image)
            mask = np.where(pair.mask == self.tree.labels.ignore_index, IGNORED, pair.mask).astype(np.uint8)
            write_bytes(f"{self.tree.folder}/SegmentationClass/{pair.name}.png", self._encoded(mask))
            names.append(pair.name)
        return names

    def _encoded(self, mask: np.ndarray) -> bytes:
        """(H, W) uint8 ids as a palette PNG: the ids for programs, the colours for people."""
        picture, buffer = Image.fromarray(mask), io.BytesIO()
        picture.putpalette(self._colours.tobytes())
        picture.save(buffer, "png", compress_level=1)
        return buffer.getvalue()

    @cached_property
    def labels(self) -> LabelSpace:
        """Of the masks as they are here."""
        return replace(self.tree.labels, ignore_index=IGNORED)

    @cached_property
    def _colours(self) -> np.ndarray:
        return self.labels.colours(np.arange(256)[None])

    def finish(self, records: Records) -> None:
        for split, parts in records.items():
            publish(f"{self.tree.folder}/{LISTS[split]}", partial(_write_list, parts=parts))
        configs = {"dataset": self.dataset_config(records)}
        if "train" in records:
            configs |= {name: model_config(name, tuple(records)) for name in MODELS}
        for name, text in configs.items():
            write_bytes(f"{self.tree.folder}/configs/{name}.py", text.encode())
        write_card(self.tree, records, READING, labels=self.labels)

    def dataset_config(self, splits: Iterable[str]) -> str:
        """Python text that defines `pairs_train`, `pairs_validation` and `pairs_test`: those that are in `splits`."""
        first = 1 if self.labels.zero == "other" else 0
        sets = "\n".join(
            f"pairs_{split} = dict(**pairs, ann_file='{LISTS[split]}', "
            f"pipeline=pairs_{'train' if split == 'train' else 'test'}_pipeline)"
            for split in splits
        )
        return DATASET.format(
            here="{{ fileDirname }}",  # MMEngine puts the folder of the config here
            classes=pformat(self.labels.classes[first:], width=100, compact=True),
            palette=pformat([list(colour) for colour in self.labels.palette[first:]], width=100, compact=True),
            suffix=self.suffix,
            reduced=bool(first),
            sets=sets,
        )


def model_config(name: str, splits: tuple[str, ...]) -> str:
    """Python text of the config `name` of MODELS, for a set with these splits."""
    base, model = MODELS[name]
    judged = {"val": "validation", "test": "test" if "test" in splits else "validation"}
    loaders = [_loader("train", "train")]
    for kind, split in judged.items():
        loaders += [_loader(kind, split)] if split in splits else [f"{kind}_{x} = None" for x in LOOP]
    return MODEL.format(base=base, model=model, loaders="\n".join(loaders))


def _write_list(file: IO[bytes], parts: Iterable[Record]) -> None:
    for part in parts:
        file.write("".join(f"{name}\n" for name in part["made"]).encode())


def _loader(kind: str, split: str) -> str:
    return f"{kind}_dataloader = dict(dataset=dict(_delete_=True, **_base_.pairs_{split}))"
