"""Compact: small shards into large ones, and no row in two shards.

Safe at every moment: what takes the place of a shard is there before the shard goes, so a row can be there twice for a
while, and never not at all. A run that was killed in between is healed by the next start of its generate job, or of
this one.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import yaml
from pydantic import Field

from pipeline.base.config import Config, absolute
from pipeline.base.errors import ConfigError
from pipeline.base.log import log, set_up_logging
from pipeline.manifest import Manifest
from pipeline.shards import (
    list_shards,
    map_shards,
    read_columns,
    read_keys,
    remove_drafts,
    remove_shards,
    shard_bytes,
    write_table,
)  # fmt: skip
from pipeline.sink import SHARD_BYTES
from pipeline.storage.files import read_bytes
from pipeline.storage.sole_driver import sole_driver
from pipeline.work import get


class CompactConfig(Config):
    """Rewrites the small shards of a run into large ones."""

    pairs: str
    """Folder of the run, a path or a URL."""
    shard_mb: int = Field(SHARD_BYTES // 10**6, ge=1)
    """Megabytes per Parquet file; shards of at least half of it stay as they are."""


def compact(config: CompactConfig) -> Manifest:
    """Rewrites what is small; returns what the run holds then, which are the same rows.

    Raises:
        ConfigError: no run, or another process works on it.
    """
    set_up_logging()
    folder = absolute(config.pairs)
    try:
        yaml.safe_load(read_bytes(f"{folder}/config.yaml"))["job"]
    except (FileNotFoundError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: not the folder of a run (no config.yaml in it that names its job)") from error
    with sole_driver(folder):
        remove_drafts(folder)
        remove_shards(get(ray.remote(heal).remote(folder)))
        before = list_shards(folder)
        groups = grouped(dict(zip(before, map_shards(shard_bytes, before), strict=True)), config.shard_mb * 10**6)
        log.info("compact: %d shards, %d of them small", len(before), sum(map(len, groups)))
        for group in groups:
            path = get(ray.remote(merge).remote(group))
            remove_shards(one for one in group if one != path)
            log.info("compact: %d shards became %s", len(group), path)
        manifest = Manifest.scan(folder)
        manifest.save(f"{folder}/manifest.json")
        log.info("compact: %d pairs in %d shards", manifest.num_pairs, len(manifest.shards))
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


def merge(paths: list[str]) -> str:
    """Writes one shard that holds what several of one folder do; returns its path. Nothing is removed here: a task may
    run again, or outlive its driver."""
    table = pa.concat_tables([read_columns(path) for path in paths])
    folder = paths[0].rsplit("/", 1)[0]
    return f"{folder}/{write_table(table, folder)}"


def heal(folder: str) -> list[str]:
    """Finds rows that a run holds twice, and writes what else is in the shards that hold them; returns the shards that
    are then to be removed. Nothing is removed here, as in `merge`.

    Such rows come from Ray running a lost block again with other boundaries, from tasks that outlive a killed driver by
    a moment, and from a compaction that was killed.
    """
    paths = list_shards(folder)
    columns = dict(zip(paths, map_shards(read_keys, paths), strict=True))
    keys = pa.chunked_array([chunk for column in columns.values() for chunk in column.chunks], pa.string())
    if len(pc.unique(keys)) == len(keys):
        return []
    counts = pc.value_counts(keys)
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    kept = pa.array([], pa.string())
    written: set[str] = set()
    replaced: list[str] = []
    for path in sorted(paths, key=lambda path: -len(columns[path])):  # a merged shard wins over its parts
        own = columns[path].combine_chunks()
        first = np.zeros(len(own), bool)
        first[np.unique(own.to_numpy(zero_copy_only=False), return_index=True)[1]] = True
        wanted = pc.and_not(pa.array(first), pc.is_in(own, kept))
        if not pc.all(wanted).as_py():
            rows = read_columns(path).filter(wanted)
            if rows.num_rows:
                directory = path.rsplit("/", 1)[0]
                written.add(f"{directory}/{write_table(rows, directory)}")
            replaced.append(path)
        kept = pa.concat_arrays([kept, own.filter(pc.is_in(own, doubled))])
    log.warning("%s: %d rows were there twice, as a lost machine can cause; one of each is kept", folder, len(doubled))
    # Names follow from content: what is left of one shard may be just what another one was, or is.
    return [path for path in replaced if path not in written]
