"""The label space of a set: the file beside its shards."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import yaml

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.storage.files import read_bytes

LABELS, CARD = "label_space.json", "README.md"


def described(schema: pa.Schema, labels: LabelSpace) -> pa.Schema:
    """A schema of pairs that says what its masks hold, to `datasets.load_dataset` and to whoever reads the files alone.

    The `id` of the feature `mask` is what they hold in words (a ClassLabel must not meet the ignore index, which
    `class_ids` may hold), and the key "label_space" of the metadata holds what `LabelSpace.from_json` reads.
    """
    known = json.loads((schema.metadata or {}).get(b"huggingface", b'{"info": {"features": {}}}'))
    if "mask" in (features := known["info"]["features"]):
        features["mask"] |= {"id": meaning(labels)}
    known["info"]["description"] = f"Pairs of an image and its mask. {meaning(labels)}"
    texts = {b"huggingface": json.dumps(known).encode(), b"label_space": labels.to_json().encode()}
    return schema.with_metadata({**(schema.metadata or {}), **texts})


def run_card(labels: LabelSpace) -> str:
    """`README.md` of a run of pairs, by which `datasets.load_dataset` of its folder reads the shards alone."""
    front = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "shards/*.parquet"}]}],
        "dataset_info": {"description": meaning(labels)},
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{meaning(labels)}\n"


def meaning(labels: LabelSpace) -> str:
    """What the numbers in masks mean, in a sentence or two."""
    zero = "a class like the others" if labels.zero == "background" else "no class: skip it like the ignore index"
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(labels.classes))
    return (
        f"Masks hold class ids of the label space {labels.name}: {listed}. Ignore index {labels.ignore_index}: pixels "
        f"without a known class. 0 is {zero}."
    )


def common_labels(folders: Sequence[str]) -> LabelSpace:
    """The label space of several runs.

    Raises:
        DataError: a run has none, or they differ.
    """
    first, *others = [load_labels(folder) for folder in folders]
    for folder, labels in zip(folders[1:], others, strict=True):
        if not is_same(labels, first):
            raise DataError(
                f"{folder} has the classes of {labels.name!r}, {folders[0]} those of {first.name!r}; one number would "
                "mean two things, so these sets cannot be used together"
            )
    return first


def is_same(one: LabelSpace, other: LabelSpace) -> bool:
    """Whether the numbers in masks of two label spaces mean the same; names and colours may differ."""
    return (one.classes, one.ignore_index, one.zero) == (other.classes, other.ignore_index, other.zero)


def load_labels(folder: str) -> LabelSpace:
    """The label space of a run's masks.

    Raises:
        DataError: the run has none.
    """
    path = f"{folder.rstrip('/')}/{LABELS}"
    try:
        return LabelSpace.from_json(read_bytes(path).decode())
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: missing, so nothing says what the masks mean; give the folder of an ingest or a generate run"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: not a label space ({error}); copy it again from the run that made the pairs"
        ) from error
