"""Compact: small shards into large ones, and no row in two shards.

Safe at every moment: what takes the place of a shard is there before the shard goes, so a row can be there twice for a
while, and never not at all. A run that was killed in between is healed by the next start of its generate job, or of
this one.
"""

from __future__ import annotations

import threading
from itertools import takewhile

import yaml
from pydantic import Field

from pipeline.base.config import Config
from pipeline.base.errors import ConfigError, Stopped
from pipeline.base.log import log, set_up_logging
from pipeline.base.places import Folder
from pipeline.cluster.finish import heal_run, scan
from pipeline.cluster.sink import SHARD_BYTES
from pipeline.cluster.tasks import in_task
from pipeline.cluster.watch import stoppable
from pipeline.storage.files import read_bytes
from pipeline.storage.sole_driver import sole_driver
from pipeline.tables.healing import merge, remove_shards
from pipeline.tables.manifest import Manifest
from pipeline.tables.selection import require_run
from pipeline.tables.shards import list_shards, map_shards, remove_drafts, shard_bytes


class CompactConfig(Config):
    """Rewrites the small shards of a run into large ones."""

    pairs: Folder
    """Folder of the run, a path or a URL."""
    shard_mb: int = Field(SHARD_BYTES // 10**6, ge=1)
    """Megabytes per Parquet file; shards of at least half of it stay as they are."""


def compact(config: CompactConfig) -> Manifest:
    """Rewrites what is small; returns what the run holds then, which are the same rows.

    Raises:
        ClusterError: processes or machines died too often.
        ConfigError: no run, or another process works on it.
        Stopped: SIGINT or SIGTERM; the shard that had begun is made.
    """
    set_up_logging()
    folder = config.pairs
    require_run(folder)
    try:
        yaml.safe_load(read_bytes(f"{folder}/config.yaml"))["job"]
    except (FileNotFoundError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: not the folder of a run (no config.yaml in it that names its job)") from error
    with sole_driver(folder):
        remove_drafts(folder)
        heal_run(folder)
        before = list_shards(folder)
        groups = grouped(dict(zip(before, map_shards(shard_bytes, before), strict=True)), config.shard_mb * 10**6)
        log.info("compact: %d shards, %d of them small", len(before), sum(map(len, groups)))
        asked, done = threading.Event(), 0
        with stoppable("compact", asked.set):
            for group in takewhile(lambda _: not asked.is_set(), groups):
                path = in_task(merge, group)
                remove_shards(one for one in group if one != path)
                done += 1
                log.info("compact: %d shards became %s (%d of %d)", len(group), path, done, len(groups))
            manifest: Manifest = in_task(scan, folder)
            manifest.save(f"{folder}/manifest.json")
        log.info("compact: %d pairs in %d shards", manifest.num_pairs, len(manifest.shards))
        if done < len(groups):
            raise Stopped(f"stopped: {done} of {len(groups)} large shards are made in {folder}")
        return manifest


def grouped(sizes: dict[str, int], shard_size: int) -> list[list[str]]:
    """Shards of less than half of `shard_size`, in groups of about that many bytes; a single one stays alone."""
    groups: list[list[str]] = [[]]
    held = 0
    for path, size in sizes.items():
        if size >= shard_size / 2:
            continue
        if held + size > shard_size * 1.25:
            groups.append([])
            held = 0
        groups[-1].append(path)
        held += size
    return [group for group in groups if len(group) > 1]
