"""Publishing: a file is there whole or not at all, on a disk or a store."""

from __future__ import annotations

import io
import os
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.base.errors import ShardError
from pipeline.storage.files import describe, filesystem_of


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
            f"cannot write {url}: {describe(error)}; free space or correct access there, then run the same command "
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
            f"cannot write {url}: {describe(error)}; free space or correct access there, then run the same command "
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
        raise ShardError(f"cannot write {target}: {describe(error)}; free space or correct access there") from error


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
