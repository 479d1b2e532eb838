"""The log: one plain line per message on the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("jodiffusion")


def set_up_logging() -> None:
    """One plain line per message on the terminal; safe to call again."""
    if not log.handlers:
        handler = _ToStdout()
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


class _ToStdout(logging.StreamHandler[Any]):
    """Writes to what `sys.stdout` is at the moment: a live display takes its place for a while."""

    @property
    def stream(self) -> Any:
        return sys.stdout

    @stream.setter
    def stream(self, _: Any) -> None: ...


class _Kept(logging.Handler):
    """Keeps the texts of messages."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Keeps the warnings of the log, each once, for the process that has the terminal: a task has none of its own."""
    handler = _Kept()
    log.addHandler(handler)
    try:
        yield handler.texts
    finally:
        log.removeHandler(handler)
        handler.texts[:] = dict.fromkeys(handler.texts)


@contextmanager
def each_once() -> Iterator[None]:
    """Says each text once."""
    said: set[tuple[int, str]] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.levelno, record.getMessage()
        is_new = text not in said
        said.add(text)
        return is_new

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def clock(seconds: float) -> str:
    """Seconds as "m:ss", or "h:mm:ss"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
