"""The label space of a set: the file beside its shards."""

from __future__ import annotations

from collections.abc import Sequence

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.strict_yaml import load_yaml
from pipeline.storage.files import read_bytes

LABELS = "label_space.json"


def common_labels(folders: Sequence[str]) -> LabelSpace:
    """The label space of several runs.

    Raises:
        DataError: a run has none, or they differ.
    """
    first, *others = [load_labels(folder) for folder in folders]
    for folder, labels in zip(folders[1:], others, strict=True):
        if _meaning(labels) != _meaning(first):
            raise DataError(
                f"{folder} has the classes of {labels.name!r}, {folders[0]} those of {first.name!r}; one number would "
                "mean two things, so these sets cannot be used together"
            )
    return first


def named_labels(source: str) -> LabelSpace:
    """A label space by its name or its YAML file, which is read as strictly as configs are.

    Raises:
        ValueError: as `LabelSpace.named`.
    """
    return LabelSpace.named(source, load_yaml)


def _meaning(labels: LabelSpace) -> tuple[object, ...]:
    """What the numbers of two sets must agree in."""
    return labels.classes, labels.ignore_index, labels.zero


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
