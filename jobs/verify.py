"""Prove a run: every id, hash, picture and number in it; or say what is wrong, row by row."""

from __future__ import annotations

from collections.abc import Callable

import ray

from jobs import command
from pipeline.base.config import Config
from pipeline.base.errors import DataError
from pipeline.base.log import log, set_up_logging
from pipeline.base.places import Place
from pipeline.cluster.connection import cluster
from pipeline.cluster.tasks import get
from pipeline.tables.shards import FAILED, MADE, list_shards
from pipeline.verify import Checked, verify

MAX_SHOWN = 1000


class VerifyConfig(Config):
    """Reads every byte of a run and compares it with everything that is known of it; changes nothing."""

    pairs: Place
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
    """A Ray task per shard, wherever there is room; says how far it is."""
    refs = [ray.remote(_call).remote(check, path) for path in paths]
    done: list[Checked] = []
    for ref in refs:
        done.append(get(ref))
        if len(done) % 100 == 0:
            log.info("verify: %d of %d files", len(done), len(refs))
    return done


def _call(check: Callable[[str], Checked], path: str) -> Checked:
    """A task is a function, not the partial one that `check` is."""
    return check(path)


if __name__ == "__main__":
    command(main, VerifyConfig)
