"""Where things are kept: files on this machine or on any store that fsspec knows ("s3://bucket/run").

Credentials come from the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...) and are never part of a
path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.base.errors import ConfigError, DataError, JoDiffusionError


def filesystem_of(url: str) -> tuple[Any, str]:
    """fsspec's file system, and the path on it.

    Raises:
        ConfigError: a store whose package is not installed.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url}: {error}; for s3:// install s3fs, for gs:// gcsfs") from error


def is_local(url: str) -> bool:
    """Whether `url` is a path of this machine."""
    return isinstance(filesystem_of(url)[0], LocalFileSystem)


def read_bytes(url: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
        DataError: it cannot be reached.
    """
    filesystem, path = filesystem_of(url)
    with reaching(url):
        try:
            return filesystem.cat_file(path)
        except FileNotFoundError:
            # By a listing that this process remembers, perhaps, from before another one wrote the file.
            filesystem.invalidate_cache()
            return filesystem.cat_file(path)


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turns every error of a store but a missing or misplaced file into one that says where it was met."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, JoDiffusionError):
        raise
    except Exception as error:  # every store has errors of its own
        raise DataError(f"cannot read {url}: {describe(error)}; check the path and your access to it") from error


def is_folder(path: str) -> bool:
    """Whether a folder is there, on this machine or a store."""
    filesystem, inner = filesystem_of(path)
    with reaching(path):
        return bool(filesystem.isdir(inner))


def is_file(path: str) -> bool:
    """Whether a file is there, on this machine or a store."""
    filesystem, inner = filesystem_of(path)
    with reaching(path):
        return bool(filesystem.isfile(inner))


def names_in(folder: str) -> list[str]:
    """Names of what lies in a folder, on this machine or a store, as it is now, sorted; none where there is no
    folder."""
    filesystem, inner = filesystem_of(folder)
    with reaching(folder):
        filesystem.invalidate_cache(inner)
        try:
            return sorted(str(one).rstrip("/").rsplit("/", 1)[-1] for one in filesystem.ls(inner, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []


def describe(error: BaseException) -> str:
    """An error in a few words, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:300]
