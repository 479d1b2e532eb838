"""Prove a run: every id, hash, picture and number in it; or say what is wrong, row by row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import takewhile

import ray

from jobs import command
from pipeline.base.config import Config, Workers
from pipeline.base.errors import DataError, Stopped
from pipeline.base.log import log, set_up_logging
from pipeline.base.places import Folder
from pipeline.cluster import tasks
from pipeline.cluster.connection import cluster
from pipeline.cluster.watch import stoppable
from pipeline.tables.shards import FAILED, MADE, list_shards
from pipeline.verify import Checked, verify

MAX_SHOWN = 1000
SECONDS_BETWEEN_LINES = 10.0


class VerifyConfig(Config):
    """Reads every byte of a run and compares it with everything that is known of it; changes nothing."""

    pairs: Folder
    """Folder of the run, a path or a URL."""


def main(config: VerifyConfig) -> None:
    set_up_logging()
    folder = config.pairs
    num = sum(len(list_shards(folder, kind)) for kind in (MADE, FAILED))
    if not num:
        raise DataError(f"{folder}: no shards here; give the folder of a run")
    log.info("verify: %d files in %s", num, folder)
    with cluster():
        problems = verify(folder, deep=True, spread=in_tasks)
    for problem in problems[:MAX_SHOWN]:
        log.info("verify: %s", problem)
    if problems:
        raise DataError(
            f"{folder}: {len(problems)} problems. Delete the files that they name, and the job that made the run makes "
            "their rows again; jobs.regenerate makes a single pair again and compares"
        )
    log.info("verify: %d files are sound: ids, hashes, checksums, pictures, masks, areas and manifest", num)


def in_tasks(check: Callable[[str], Checked], paths: list[str]) -> list[Checked]:
    """A Ray task per shard, wherever there is room; says how far it is.

    Raises:
        Stopped: SIGINT or SIGTERM; says what was found so far.
    """
    found: dict[int, Checked] = {}
    asked, told = threading.Event(), time.monotonic()
    # More than there is room for: a cluster that can grow sees that they wait.
    at_once = Workers(num=max(4, 2 * int(ray.cluster_resources().get("CPU", 1))))
    calls = takewhile(lambda _: not asked.is_set(), ((place, check, path) for place, path in enumerate(paths)))
    with stoppable("verify", asked.set):
        for place, one in tasks.in_tasks(_call, calls, at_once):
            found[place] = one
            if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                log.info("verify: %d of %d files", len(found), len(paths))
    if len(found) < len(paths):
        problems = [problem for _, some in found.values() for problem in some]
        for problem in problems[:MAX_SHOWN]:
            log.info("verify: %s", problem)
        raise Stopped(f"stopped: {len(found)} of {len(paths)} files were checked, with {len(problems)} problems")
    return [found[place] for place in range(len(paths))]


def _call(place: int, check: Callable[[str], Checked], path: str) -> tuple[int, Checked]:
    """A task is a function, not the partial one that `check` is; it says which of all it is."""
    return place, check(path)


if __name__ == "__main__":
    command(main, VerifyConfig)
