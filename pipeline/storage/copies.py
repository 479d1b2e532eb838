"""Copies: what lies on a store, fetched once a machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from pipeline.base.errors import DataError
from pipeline.storage.files import filesystem_of, reaching


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
