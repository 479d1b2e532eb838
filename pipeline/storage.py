"""Where things are kept: files on this machine or on any store that fsspec knows ("s3://bucket/run").

Credentials come from the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...) and are never part of a
path.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from pipeline.base.errors import ConfigError, DataError, JoDiffusionError, ShardError


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


def write_bytes(url: str, content: bytes) -> None:
    """Makes the file `url`, whole or not at all."""
    publish(url, lambda file: file.write(content))


def publish(url: str, write: Callable[[IO[bytes]], object]) -> None:
    """Makes the file `url` from what `write` puts into a stream, whole or not at all, even if the power fails.

    Raises:
        ShardError: disk full, no permission, store not reached; nothing is left behind.
    """
    filesystem, path = filesystem_of(url)
    errors: type[Exception] = OSError
    try:
        if isinstance(filesystem, LocalFileSystem):
            _publish_locally(path, write)
        else:
            buffer = io.BytesIO()
            write(buffer)
            errors = Exception  # every store has errors of its own
            # One PUT, no rename: an object appears when it is complete.
            filesystem.pipe_file(path, buffer.getvalue(), **_one_put(filesystem))
    except errors as error:
        raise ShardError(
            f"cannot write {url}: {describe(error)}; free space or mend access there, then run the same command "
            "again: what is already written is kept"
        ) from error


def publish_file(url: str, write: Callable[[str], object]) -> None:
    """Makes the file `url` from what `write` puts into the path that it is given: for files too large for memory.

    Raises:
        ShardError: as `publish`.
    """
    filesystem, path = filesystem_of(url)
    local = isinstance(filesystem, LocalFileSystem)
    try:
        parent = os.path.dirname(path) if local else None
        if parent:
            os.makedirs(parent, exist_ok=True)
        # A draft of its own for every try; beside its place, where it can be renamed.
        with tempfile.TemporaryDirectory(prefix=".", suffix=".draft", dir=parent) as scratch:
            draft = os.path.join(scratch, os.path.basename(path))
            write(draft)
            if local:
                with open(draft, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(draft, path)
                _sync_folder(str(parent))
            else:
                filesystem.put_file(draft, path)  # in parts where it is large; an object appears when it is complete
    except Exception as error:  # every store, and what writes, has errors of its own
        raise ShardError(
            f"cannot write {url}: {describe(error)}; free space or mend access there, then run the same command "
            "again: what is already written is kept"
        ) from error


def upload(source: str, target: str) -> None:
    """Puts a folder of this machine where `target` says, in place of what is there.

    Raises:
        ShardError: as `publish`.
    """
    filesystem, path = filesystem_of(target)
    try:
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)
        filesystem.put(f"{source}/", f"{path}/", recursive=True)
    except Exception as error:  # every store has errors of its own
        raise ShardError(f"cannot write {target}: {describe(error)}; free space or mend access there") from error


def describe(error: BaseException) -> str:
    """An error in a few words, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:300]


def local_copy(folder: str) -> Path:
    """A folder of this machine with what is in `folder`: itself, or a copy of a remote one, fetched once a machine.

    Copies lie under JODIFFUSION_CACHE (default ~/.cache/jodiffusion), named by the remote files' names, sizes and
    versions.

    Raises:
        DataError: nothing is there, or it cannot be fetched.
    """
    filesystem, path = filesystem_of(folder)
    if isinstance(filesystem, LocalFileSystem):
        return Path(path)
    with reaching(folder):
        try:
            found = filesystem.find(path, detail=True)
        except FileNotFoundError:  # no bucket of this name
            found = {}
        if not found:
            raise DataError(f"{folder}: nothing is there; check the path and your access to it")
        facts = [(name, info.get("size"), str(filesystem.ukey(name))) for name, info in sorted(found.items())]
        source = path.rstrip("/") + "/"
        return _fetched([folder, facts], lambda draft: filesystem.get(source, f"{draft}/", recursive=True))


def local_file(url: str) -> Path:
    """A file of this machine with the content of `url`: itself, or a copy, as `local_copy` keeps them.

    Raises:
        FileNotFoundError: there is none.
        DataError: it cannot be fetched.
    """
    filesystem, path = filesystem_of(url)
    if isinstance(filesystem, LocalFileSystem):
        return Path(path)
    with reaching(url):
        facts = [url, filesystem.info(path).get("size"), str(filesystem.ukey(path))]
        return _fetched(facts, lambda draft: filesystem.get_file(path, draft))


def _fetched(facts: list[Any], fetch: Callable[[str], object]) -> Path:
    """What `fetch` puts into the path that it is given, once for each `facts` on this machine."""
    name = blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    cache = Path(os.environ.get("JODIFFUSION_CACHE", "~/.cache/jodiffusion")).expanduser()
    copy, draft = cache / name, cache / f".{name}.draft"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{name}.lock"):  # all processes of a machine start at once
        if not copy.exists():
            shutil.rmtree(draft, ignore_errors=True)
            fetch(str(draft))
            os.replace(draft, copy)
    return copy


def _one_put(filesystem: Any) -> dict[str, Any]:
    """Arguments of `pipe_file` that keep s3fs from cutting objects of up to 5 GB into parts."""
    return {"chunksize": 5 * 2**30} if "s3" in filesystem.protocol else {}


def _publish_locally(path: str, write: Callable[[IO[bytes]], object]) -> None:
    parent, name = os.path.split(path)
    os.makedirs(parent, exist_ok=True)
    # A draft of its own for every try: a task that Ray believes lost may still be writing beside its replacement.
    draft = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:8]}.draft")
    try:
        with open(draft, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.remove(draft)
        raise
    _sync_folder(parent)


def _sync_folder(folder: str) -> None:
    """Makes new names in it survive a power cut, as the contents of the files already do."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
