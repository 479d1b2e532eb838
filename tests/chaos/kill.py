"""Starts a job in a process of its own and kills it, with everything it started, at a chosen moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]


def start(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """`python -m ARGUMENTS`, with its output in `log`. Its Ray's workers are forked, which spares their imports: they
    are no descendants of it, but end with what is."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.forked", *arguments],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )


def finish(*arguments: str, log: Path) -> None:
    """Runs a job to its end, which must be a good one."""
    process = start(*arguments, log=log)
    assert process.wait(timeout=300) == 0, log.read_text(errors="replace")[-3000:]


def kill_when(condition: Callable[[], bool], *arguments: str, log: Path, timeout_s: float = 240) -> None:
    """Starts a job and sends SIGKILL to it and to all its processes at once as soon as `condition` holds."""
    process = start(*arguments, log=log)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"ended too early:\n{log.read_text(errors='replace')[-3000:]}"
        assert time.monotonic() < deadline, f"the moment to kill never came:\n{log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.002)  # a shard is written within milliseconds
    kill_family(process)


def kill_family(process: subprocess.Popen[Any]) -> None:
    """SIGKILL to a process and everything that it started, at once."""
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def first_time(marker: Path) -> bool:
    """True for the first process that asks. Here, so that Ray's workers need not import a whole test for it."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def sampled(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """In place of a sampler, where only processes matter: pairs of 16 x 16 pixels that follow from their seeds, in a
    process that imports no network."""
    shapes = ("image", (16, 16, 3)), ("mask", (16, 16)), ("confidence", (16, 16))
    numbers = [np.random.default_rng(int(seed)) for seed in batch["seed"]]
    pictures = {name: np.stack([one.integers(0, 2, shape, np.uint8) for one in numbers]) for name, shape in shapes}
    num = len(numbers)
    errors = {name: batch.get(name, np.full(num, "", object)) for name in ("error", "error_detail")}
    return {**batch, **pictures, "confidence_mean": np.full(num, 0.5, np.float32), **errors}


def descendants(pid: int) -> list[int]:
    """Children of `pid`, their children, and so on."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found
