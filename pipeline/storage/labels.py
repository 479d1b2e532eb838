"""Label spaces by the names and places that configs give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from models.labels import LabelSpace, states_palette
from pipeline.base.errors import DataError
from pipeline.base.strict_yaml import load_yaml
from pipeline.storage.copies import local_file


def named_labels(source: str) -> LabelSpace:
    """A label space by its name or its YAML file, a path or a URL, which is read as strictly as configs are.

    Raises:
        ValueError: as `LabelSpace.named`.
    """
    with _here(source) as found:
        return LabelSpace.named(found, load_yaml)


def has_palette(source: str) -> bool:
    """Whether such a label space states colours of its own, by which masks may be read.

    Raises:
        ValueError: as `LabelSpace.named`.
    """
    with _here(source) as found:
        return states_palette(found, load_yaml)


@contextmanager
def _here(source: str) -> Iterator[str]:
    """What `LabelSpace.named` reads: of a URL a copy, which errors call by the URL."""
    if "://" not in source:
        yield source
        return
    try:
        found = str(local_file(source))
    except (OSError, DataError) as error:
        why = "nothing is there" if isinstance(error, FileNotFoundError) else str(error)
        raise ValueError(
            f"label space {source!r}: cannot read it ({why}); check the URL and your access to it"
        ) from error
    try:
        yield found
    except ValueError as error:
        raise ValueError(str(error).replace(found, source)) from error
