"""The history of a training: a small file of what was logged, one JSON a line, which outlives any server.

A point is `{"examples": int, "loss": float, <part of the loss>: float, ..., "examples_per_s": float}`, with held-out
scores `{"examples": int, "validation": {<score>: float, ...}}`. The file only grows; `read` sorts out what a training
that was cut has written twice.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import JoDiffusionError
from pipeline.storage.files import filesystem_of, is_local, read_bytes
from pipeline.storage.publish import write_bytes

log = logging.getLogger("jodiffusion")

FILE = "history.jsonl"
MAX_STORED_POINTS = 2_000
"""Points of a history on a store, where each new one writes all again; beyond it, every second of them goes."""

Point = Mapping[str, Any]


def append(folder: str | Path, point: Point) -> None:
    """Adds a point to the history in `folder`. What goes wrong is a warning: no training stops for its history."""
    url = f"{folder}/{FILE}"
    try:
        line = json.dumps({key: _plain(value) for key, value in point.items()}).encode() + b"\n"
        if is_local(url):
            _append(filesystem_of(url)[1], line)
        else:
            write_bytes(url, _bounded(_content(url)) + line)
    except (OSError, JoDiffusionError) as error:
        log.warning("the history of this training lacks a point: %s", error)


def begin(folder: str | Path, examples: int) -> None:
    """Marks that training goes on, or begins, behind `examples`: what an earlier start logged beyond does not count."""
    append(folder, {"examples": examples})


def read(folder: str | Path) -> list[dict[str, Any]]:
    """The points in `folder`, by rising examples; none where there is no history.

    A point makes those of more examples before it void: they are of a start that was cut and goes on from an earlier
    checkpoint. Two of equally many become one, in which the latest values stay.
    """
    points: list[dict[str, Any]] = []
    for line in _content(f"{folder}/{FILE}").splitlines():
        point = _parsed(line)
        if point is None:
            continue
        while points and points[-1]["examples"] > point["examples"]:
            points.pop()
        if points and points[-1]["examples"] == point["examples"]:
            points[-1] |= point
        else:
            points.append(point)
    return points


def _append(path: str, line: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a killed process has left half a line
                line = b"\n" + line
        file.write(line)


def _content(url: str) -> bytes:
    try:
        return read_bytes(url)
    except (FileNotFoundError, NotADirectoryError):
        return b""


def _bounded(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    if len(lines) < MAX_STORED_POINTS:
        return content
    return b"".join(line for place, line in enumerate(lines) if place % 2 or b'"validation"' in line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A point; None for half a line, or anything else that is none."""
    try:
        point = json.loads(line)
    except ValueError:
        return None
    examples = point.get("examples") if isinstance(point, dict) else None
    return point if isinstance(examples, int | float) and examples >= 0 else None


def _plain(value: Any) -> Any:
    """Numbers of torch and NumPy as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return value.item() if hasattr(value, "item") else value
