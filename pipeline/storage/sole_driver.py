"""One process at a time drives a run: a lock where the run is on a disk, a lease where it is on a store."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.base.errors import ConfigError, DataError
from pipeline.storage.files import describe, filesystem_of, reaching

LEASE_RENEWAL_S = 10.0
LEASE_PATIENCE_S = 25.0
"""A lease that has not changed for this long belongs to nobody: no two machines' clocks are compared."""


@contextmanager
def sole_driver(folder: str) -> Iterator[None]:
    """Only one process at a time drives the run in `folder`; the right to do so goes with the process, however it ends.

    Raises:
        ConfigError: another one does; says which.
    """
    filesystem, path = filesystem_of(folder)
    if isinstance(filesystem, LocalFileSystem):
        with _file_lock(path):
            yield
    else:
        with _lease(filesystem, f"{path}/driver.lease", folder):
            yield


@contextmanager
def _file_lock(folder: str) -> Iterator[None]:
    try:
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, ".driver"), "ab+", buffering=0)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be the folder of a run: {describe(error)}; correct the key `runs`"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _taken(folder, file.read().decode(errors="replace")) from None
        except OSError as error:
            raise DataError(
                f"{folder}: this file system has no locks ({describe(error)}), so nothing would keep a second driver "
                "out; keep runs on another one, or on a store"
            ) from error
        with suppress(OSError):  # a full disk; who holds the lock is known by the lock itself
            file.truncate(0)
            file.write(json.dumps(_identity()).encode())
        yield


@contextmanager
def _lease(filesystem: Any, path: str, folder: str) -> Iterator[None]:
    """Stores have no locks: a small object that its holder rewrites again and again, and removes in the end. A holder
    that finds another's, or could not rewrite its own for as long as others wait, stops as if by Ctrl-C."""
    token = uuid.uuid4().hex
    mine = _identity() | {"token": token}

    def read() -> bytes:
        filesystem.invalidate_cache()
        try:
            with reaching(folder):
                return filesystem.cat_file(path)
        except FileNotFoundError:
            return b""

    def write(number: int) -> None:
        with reaching(folder):
            filesystem.pipe_file(path, json.dumps(mine | {"renewed": number}).encode())

    def is_mine(content: bytes) -> bool:
        return token.encode() in content

    before = read()
    deadline = time.monotonic() + LEASE_PATIENCE_S
    while before and time.monotonic() < deadline:
        time.sleep(min(1.0, LEASE_PATIENCE_S / 10))
        if (now := read()) and now != before:
            raise _taken(folder, now.decode(errors="replace"))
        if not now:
            break
    write(0)
    time.sleep(min(3.0, LEASE_PATIENCE_S / 8))  # of several that begin at once, the one that wrote last stays
    if not is_mine(now := read()):
        raise _taken(folder, now.decode(errors="replace"))
    stop, renewed = threading.Event(), time.monotonic()

    def renew() -> None:
        nonlocal renewed
        for number in range(1, 2**62):
            if stop.wait(LEASE_RENEWAL_S):
                return
            taken = False
            with suppress(DataError):
                taken = not is_mine(read())
                if not taken:
                    write(number)
                    renewed = time.monotonic()
            if taken or time.monotonic() - renewed > LEASE_PATIENCE_S:
                why = "another process has taken it over" if taken else "its lease could not be renewed"
                logging.getLogger("jodiffusion").warning("%s: %s, so this one stops", folder, why)
                os.kill(os.getpid(), signal.SIGINT)  # reaches the main thread wherever it waits
                return

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        stop.set()
        renewer.join()
        with suppress(Exception):  # the store may be what failed; then the next driver waits for the lease
            if is_mine(read()):
                filesystem.rm_file(path)


def _identity() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _taken(folder: str, holder: str) -> ConfigError:
    try:
        found = json.loads(holder)
        who = f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return ConfigError(
        f"{folder}: {who} works on this run. Two drivers would make the same rows twice: wait until it has ended, or "
        "stop it; then run the same command again"
    )
