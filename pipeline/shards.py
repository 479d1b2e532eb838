"""Shards: the Parquet files that hold everything, and what is still missing from them.

A run's folder has `shards/` (rows that were made) and `errors/` (rows that could not be made: schema.ERROR). Folders
are local paths or fsspec URLs ("s3://bucket/run"). A shard is there whole or not at all, and its name is the hash of
the keys inside, so a write that is retried with the same rows replaces itself.

A key can still end up in two shards when rows are cut differently: Ray may re-run a lost block with other block
boundaries, or tasks of a killed driver may finish after its successor has listed the shards. Going on with a run does
not cause it, because keys found in shards are never planned again. `Manifest` and `verify` count such keys. A key in
both `errors/` and `shards/` is no fault: the row was made on a later try, and counts as made.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import IO, TYPE_CHECKING, Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from models.labels import LabelSpace
from pipeline.errors import DataError, ShardError
from pipeline.schema import PICTURE

if TYPE_CHECKING:
    from ray.data import Dataset

Result = TypeVar("Result")

MADE, FAILED = "shards", "errors"
LABELS = "label_space.json"

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
    small = [field.name for field in table.schema if field.type != PICTURE and not pa.types.is_binary(field.type)]

    def write(file: IO[bytes]) -> None:
        pq.write_table(
            table,
            file,
            row_group_size=max(1, min(MAX_ROWS_PER_GROUP, rows_per_group)),
            compression="zstd",
            use_dictionary=small,
            write_statistics=small,  # the least and greatest of encoded pictures say nothing
            write_page_index=True,
        )

    publish(f"{folder.rstrip('/')}/{name}", write)
    return name


def shard_name(keys: pa.ChunkedArray) -> str:
    """The file name of a shard with these keys, in any order."""
    return blake2b("\n".join(sorted(keys.to_pylist())).encode(), digest_size=16).hexdigest() + ".parquet"


def publish(url: str, write: Callable[[IO[bytes]], object]) -> None:
    """Makes the file `url` from what `write` puts into a stream, whole or not at all, even if the power fails.

    Raises:
        ShardError: disk full, no permission, store not reached; nothing is left behind.
    """
    filesystem, path = fsspec.core.url_to_fs(url)
    try:
        if isinstance(filesystem, LocalFileSystem):
            _publish_locally(path, write)
        else:
            buffer = io.BytesIO()
            write(buffer)
            filesystem.pipe_file(path, buffer.getvalue())  # one PUT: an object appears when it is complete
    except OSError as error:
        raise ShardError(
            f"cannot write {url}: {error.strerror or error}; free space or mend access there, then run the same "
            "command again: what is already written is kept"
        ) from error


def list_shards(folder: str, kind: str = MADE) -> list[str]:
    """Paths of a run's shards, sorted by name; `kind` is MADE or FAILED. Empty where there are none, or no folder."""
    folder = f"{folder.rstrip('/')}/{kind}"
    filesystem, path = fsspec.core.url_to_fs(folder)
    filesystem.invalidate_cache(path)
    try:
        names = sorted(entry.rsplit("/", 1)[-1] for entry in filesystem.ls(path, detail=False))
    except FileNotFoundError:
        return []
    return [f"{folder}/{name}" for name in names if name.endswith(".parquet") and not name.startswith(".")]


def remove_drafts(folder: str) -> None:
    """Removes what killed writers left in a local run folder. Only for a run that nobody is writing to."""
    filesystem, path = fsspec.core.url_to_fs(folder)
    if isinstance(filesystem, LocalFileSystem):
        for kind in (MADE, FAILED):
            for draft in filesystem.glob(f"{path}/{kind}/.*.draft"):
                filesystem.rm_file(draft)


@contextmanager
def open_shard(path: str) -> Iterator[pq.ParquetFile]:
    """Opens a shard to read.

    Raises:
        ShardError: it cannot be opened, or what is read from it turns out broken.
    """
    filesystem, inner = fsspec.core.url_to_fs(path)
    try:
        source = inner if isinstance(filesystem, LocalFileSystem) else filesystem.open(inner, "rb")
        with pq.ParquetFile(source, pre_buffer=True) as file:
            yield file
    except (FileNotFoundError, PermissionError, ConnectionError, TimeoutError) as error:
        raise ShardError(f"cannot reach shard {path}: {error}; check the path and your access to it") from error
    except (pa.ArrowException, OSError) as error:
        raise ShardError(
            f"shard {path} is broken ({error}); delete it and run the same command again, which makes its rows anew"
        ) from error


def map_shards(function: Callable[[str], Result], paths: Iterable[str]) -> list[Result]:
    """`function` of each path, in order, in threads."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, paths))


def read_columns(path: str, columns: list[str] | None = None) -> pa.Table:
    """One shard; of `columns`, those that it has."""
    with open_shard(path) as file:
        present = columns and [name for name in columns if name in file.schema_arrow.names]
        return file.read(columns=present, use_threads=False)


def read_ids(folder: str, column: str = "pair_id", kinds: Sequence[str] = (MADE, FAILED)) -> pa.ChunkedArray:
    """The values of a string column in all shards of a run; a run that has none yet gives none."""
    paths = [path for kind in kinds for path in list_shards(folder, kind)]
    chunks = map_shards(lambda path: read_columns(path, [column]), paths)
    return pa.chunked_array(
        [chunk for table in chunks if column in table.column_names for chunk in table[column].chunks], pa.string()
    )


def remaining(plan: pa.Table, folder: str, retry_errors: bool = False, key: str = "pair_id") -> pa.Table:
    """The rows of `plan` that a run has not made.

    Args:
        plan: a table with the columns `key` and `pair_id`.
        folder: the run's.
        retry_errors: also gives the rows that failed before.
        key: the first column of the run's table.
    """
    wanted = pc.invert(pc.is_in(plan[key], read_ids(folder, key, [MADE])))
    if not retry_errors:
        wanted = pc.and_not(wanted, pc.is_in(plan["pair_id"], read_ids(folder, "pair_id", [FAILED])))
    return plan.filter(wanted)


def read_shards(folders: Sequence[str], columns: list[str] | None = None) -> pa.Table:
    """All rows of the runs `folders`, in memory: for small sets or few columns.

    Raises:
        ShardError: a folder without shards, a broken shard, or a column that no shard has.
    """
    paths = [path for folder in folders for path in _some_shards(folder)]
    tables = map_shards(lambda path: read_columns(path, columns), paths)
    rows = pa.concat_tables(tables, promote_options="permissive")
    absent = set(columns or ()).difference(rows.column_names)
    if absent:
        raise ShardError(f"no shard in {', '.join(folders)} has a column {', '.join(sorted(absent))}")
    return rows


def read_pairs(folders: Sequence[str], columns: list[str] | None = None) -> Dataset:
    """The same as a lazy Ray data set, for sets of any size.

    Raises:
        ShardError: a folder without shards.
    """
    import ray.data

    paths_by_store: dict[Any, list[str]] = {}
    for folder in folders:
        for url in _some_shards(folder):
            store, path = fsspec.core.url_to_fs(url)
            # Ray's own reader of local files is faster than fsspec's, hence None.
            paths_by_store.setdefault(None if isinstance(store, LocalFileSystem) else store, []).append(path)
    parts = [ray.data.read_parquet(paths, columns=columns, filesystem=store) for store, paths in paths_by_store.items()]
    return parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]


def common_labels(folders: Sequence[str]) -> LabelSpace:
    """The label space of several runs.

    Raises:
        DataError: a run has none, or they differ.
    """
    first, *others = [load_labels(folder) for folder in folders]
    for folder, labels in zip(folders[1:], others, strict=True):
        if (labels.classes, labels.ignore_index) != (first.classes, first.ignore_index):
            raise DataError(
                f"{folder} has the classes of {labels.name!r}, {folders[0]} those of {first.name!r}; one number would "
                "mean two things, so these sets cannot be used together"
            )
    return first


def load_labels(folder: str) -> LabelSpace:
    """The label space of a run's masks.

    Raises:
        DataError: the run has none.
    """
    path = f"{folder.rstrip('/')}/{LABELS}"
    try:
        with fsspec.open(path, "rt") as file:
            return LabelSpace.from_json(file.read())
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: missing, so nothing says what the masks mean; give the folder of an ingest or a generate run"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: not a label space ({error}); copy it again from the run that made the pairs"
        ) from error


def _some_shards(folder: str) -> list[str]:
    paths = list_shards(folder)
    if not paths:
        raise ShardError(f"no shards in {folder}/{MADE}; give the folder of a run that has made some")
    return paths


def _publish_locally(path: str, write: Callable[[IO[bytes]], object]) -> None:
    parent, name = os.path.split(path)
    os.makedirs(parent, exist_ok=True)
    # A draft of its own for every try: a task that Ray believes lost may still be writing beside its replacement.
    draft = os.path.join(parent, f".{name}.{uuid.uuid4().hex[:8]}.draft")
    try:
        with open(draft, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.remove(draft)
        raise
    directory = os.open(parent, os.O_RDONLY)  # makes the new name survive a power cut, as the content already does
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
