"""Shards: the Parquet files that hold everything.

A run's folder has `shards/` (rows that were made) and `errors/` (rows that could not be made: schema.ERROR). Folders
are local paths or fsspec URLs ("s3://bucket/run"). A shard is there whole or not at all, and its name is the hash of
the keys inside, so a write that is retried with the same rows replaces itself.

A key can still end up in two shards when rows are cut differently: Ray may re-run a lost block with other block
boundaries, or tasks of a killed driver may finish after its successor has listed the shards. Going on with a run does
not cause it, because keys found in shards are never planned again. `Manifest` and `verify` count such keys. A key in
both `errors/` and `shards/` is no fault: the row was made on a later try, and counts as made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.base.errors import JoDiffusionError, ShardError
from pipeline.storage.files import describe, filesystem_of, is_local, names_in, reaching
from pipeline.storage.publish import publish
from pipeline.tables.schema import PICTURE
from pipeline.tables.selection import require_run

Result = TypeVar("Result")
Shard = TypeVar("Shard")

MADE, FAILED, BROKEN = "shards", "errors", "broken"
MAX_ROWS_PER_GROUP = 100  # a reader of one row decodes its whole group
MAX_BYTES_PER_GROUP = 100 * 2**20
NUM_THREADS = 16  # reading footers and small columns waits for the disk or the network, not for the CPU


def write_table(table: pa.Table, folder: str) -> str:
    """Writes `table`, whose first column is its key, as one shard into `folder`; returns the shard's file name.

    Raises:
        ShardError: it could not be written; nothing is left behind.
    """
    name = shard_name(table.column(0))
    rows_per_group = MAX_BYTES_PER_GROUP * table.num_rows // max(table.nbytes, 1)
    row_group_size = max(1, min(MAX_ROWS_PER_GROUP, rows_per_group))

    def write(file: IO[bytes]) -> None:
        pq.write_table(table, file, row_group_size=row_group_size, **parquet_options(table.schema))

    publish(f"{folder.rstrip('/')}/{name}", write)
    return name


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """How all our Parquet files are written."""
    small = [field.name for field in schema if field.type != PICTURE and not pa.types.is_binary(field.type)]
    return {
        "compression": "zstd",
        "use_dictionary": small,
        "write_statistics": small,  # the least and greatest of encoded pictures say nothing
        "write_page_index": True,
        "write_page_checksum": True,
    }


def shard_name(keys: pa.ChunkedArray) -> str:
    """The file name of a shard with these keys, in any order."""
    return blake2b("\n".join(sorted(keys.to_pylist())).encode(), digest_size=16).hexdigest() + ".parquet"


def list_shards(folder: str, kind: str = MADE) -> list[str]:
    """Paths of a run's shards, sorted by name; `kind` is MADE or FAILED. Empty where there are none, or no folder."""
    folder = f"{folder.rstrip('/')}/{kind}"
    return [f"{folder}/{name}" for name in names_in(folder) if name.endswith(".parquet") and not name.startswith(".")]


def remove_drafts(folder: str) -> None:
    """Removes what killed writers left in a local run folder. Only for a run that nobody else is writing to."""
    if is_local(folder):
        for kind in (MADE, FAILED):
            # Not fsspec's glob, to which a bracket in the folder's name would be a pattern too.
            for draft in Path(filesystem_of(folder)[1], kind).glob(".*.draft"):
                draft.unlink(missing_ok=True)  # a writer that was not quite dead may just have renamed it


@contextmanager
def open_shard(path: str, checksums: bool = False) -> Iterator[pq.ParquetFile]:
    """Opens a shard to read, comparing the checksum of every page on the way if asked to.

    Raises:
        ShardError: it cannot be opened, or what is read from it turns out broken.
    """
    filesystem, inner = filesystem_of(path)
    try:
        source = inner if is_local(path) else filesystem.open(inner, "rb")
        with pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=checksums) as file:
            yield file
    except (FileNotFoundError, PermissionError, ConnectionError, TimeoutError) as error:
        raise ShardError(f"cannot reach shard {path}: {error}; check the path and your access to it") from error
    except (pa.ArrowException, OSError) as error:
        raise ShardError(
            f"shard {path} is broken ({error}); delete it and run the same command again, which makes its rows anew"
        ) from error
    except (JoDiffusionError, GeneratorExit):
        raise
    except Exception as error:
        if is_local(path):
            raise
        raise ShardError(f"cannot reach shard {path}: {describe(error)}; check your access to it") from error


def map_shards(function: Callable[[Shard], Result], shards: Iterable[Shard]) -> list[Result]:
    """`function` of each path, or of whatever says a shard, in order, in threads."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, shards))


def shard_bytes(path: str) -> int:
    """Size of a shard."""
    filesystem, inner = filesystem_of(path)
    with reaching(path):
        return int(filesystem.size(inner))


def some_shards(folder: str) -> list[str]:
    """Shards of a run.

    Raises:
        ShardError: there are none.
    """
    paths = list_shards(folder)
    if not paths:
        require_run(folder)
        raise ShardError(
            f"no shards in {folder}/{MADE}; give the folder of a run that has made some, or run the job that makes them"
        )
    return paths
