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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import IO, TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.labels import LabelSpace
from pipeline.base.errors import DataError, JoDiffusionError, ShardError
from pipeline.schema import PAIR, PICTURE, conform
from pipeline.storage.files import describe, filesystem_of, is_local, reaching, read_bytes
from pipeline.storage.publish import publish

if TYPE_CHECKING:
    from ray.data import Dataset

Result = TypeVar("Result")

TEXTS = pa.schema([PAIR.field(name) for name in ("pair_id", "prompt", "captions", "class_ids")])
"""The columns of PAIR that say what a prompt may be made of."""

MADE, FAILED, BROKEN = "shards", "errors", "broken"
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
    filesystem, path = filesystem_of(folder)
    try:
        with reaching(folder):
            filesystem.invalidate_cache(path)
            names = sorted(entry.rsplit("/", 1)[-1] for entry in filesystem.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [f"{folder}/{name}" for name in names if name.endswith(".parquet") and not name.startswith(".")]


def remove_drafts(folder: str) -> None:
    """Removes what killed writers left in a local run folder. Only for a run that nobody else is writing to."""
    filesystem, path = filesystem_of(folder)
    if is_local(folder):
        for kind in (MADE, FAILED):
            for draft in filesystem.glob(f"{path}/{kind}/.*.draft"):
                with suppress(FileNotFoundError):  # a writer that was not quite dead has just renamed it
                    filesystem.rm_file(draft)


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


def map_shards(function: Callable[[str], Result], paths: Iterable[str]) -> list[Result]:
    """`function` of each path, in order, in threads."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, paths))


def read_columns(path: str, columns: list[str] | None = None) -> pa.Table:
    """One shard; of `columns`, those that it has."""
    with open_shard(path) as file:
        present = columns and [name for name in columns if name in file.schema_arrow.names]
        return file.read(columns=present, use_threads=False)


def read_keys(path: str) -> pa.ChunkedArray:
    """The first column of a shard."""
    with open_shard(path) as file:
        return file.read(columns=file.schema_arrow.names[:1], use_threads=False).column(0)


def shard_bytes(path: str) -> int:
    """Size of a shard."""
    filesystem, inner = filesystem_of(path)
    with reaching(path):
        return int(filesystem.size(inner))


def remove_shards(paths: Iterable[str]) -> None:
    """Removes shards whose rows are elsewhere."""
    for path in paths:
        filesystem, inner = filesystem_of(path)
        with suppress(FileNotFoundError), reaching(path):
            filesystem.rm_file(inner)


def set_aside_broken(folder: str) -> list[str]:
    """Moves shards that cannot be read from a run's `shards/` and `errors/` to `broken/`, so that their rows are made
    again and nothing is deleted; returns where they are now."""

    moved = []
    paths = [path for kind in (MADE, FAILED) for path in list_shards(folder, kind)]
    for path in [path for path, broken in zip(paths, map_shards(_is_broken, paths), strict=True) if broken]:
        target = f"{folder.rstrip('/')}/{BROKEN}/{path.rsplit('/', 1)[-1]}"
        filesystem, inner = filesystem_of(path)
        with reaching(path):
            filesystem.makedirs(filesystem_of(f"{folder}/{BROKEN}")[1], exist_ok=True)
            filesystem.mv(inner, filesystem_of(target)[1])
        moved.append(target)
    return moved


def _is_broken(path: str) -> bool:
    """Whether a file's bytes are no shard. That they cannot be reached just now is another matter, and an error."""
    try:
        read_keys(path)
        return False
    except ShardError as unread:
        content = read_bytes(path)
        try:
            with pq.ParquetFile(io.BytesIO(content)) as file:
                file.read(columns=file.schema_arrow.names[:1])
        except (pa.ArrowException, OSError):
            return True
        raise unread


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
    paths = [path for folder in folders for path in some_shards(folder)]
    tables = map_shards(lambda path: read_columns(path, columns), paths)
    rows = pa.concat_tables(tables, promote_options="permissive")
    absent = set(columns or ()).difference(rows.column_names)
    if absent:
        raise ShardError(f"no shard in {', '.join(folders)} has a column {', '.join(sorted(absent))}")
    return rows


def read_texts(folders: Sequence[str]) -> pa.Table:
    """The columns TEXTS of all rows of runs, in the order of ids; those that an older release did not write are null.

    Raises:
        ShardError: a folder without shards, or a broken shard.
    """
    paths = [path for folder in folders for path in some_shards(folder)]
    tables = map_shards(lambda path: conform(read_columns(path, TEXTS.names), TEXTS), paths)
    return pa.concat_tables(tables).sort_by("pair_id")


def left_out(folder: str) -> dict[str, str]:
    """Pair id -> why a run could not make it at the last try; pairs that a later try made are not among them."""
    rows = [read_columns(path, ["pair_id", "detail"]).to_pylist() for path in list_shards(folder, FAILED)]
    why = {row["pair_id"]: row["detail"] for one in rows for row in one}
    made = set(read_ids(folder, kinds=[MADE]).to_pylist())
    return {key: detail for key, detail in sorted(why.items()) if key not in made}


def read_pairs(folders: Sequence[str], columns: list[str] | None = None) -> Dataset:
    """The same as a lazy Ray data set, for sets of any size.

    Raises:
        ShardError: a folder without shards.
    """
    import ray.data

    parts: dict[Any, list[str]] = {}
    for folder in folders:
        shards = some_shards(folder)
        with open_shard(shards[0]) as first:  # a run of an older release may have fewer columns
            present = columns and tuple(name for name in columns if name in first.schema_arrow.names)
        for url in shards:
            store, path = filesystem_of(url)
            # Ray's own reader of local files is faster than fsspec's, hence None.
            parts.setdefault((None if is_local(url) else store, present), []).append(path)
    read = [
        ray.data.read_parquet(paths, columns=names and list(names), filesystem=store)
        for (store, names), paths in parts.items()
    ]
    return read[0].union(*read[1:]) if len(read) > 1 else read[0]


def common_labels(folders: Sequence[str]) -> LabelSpace:
    """The label space of several runs.

    Raises:
        DataError: a run has none, or they differ.
    """
    first, *others = [load_labels(folder) for folder in folders]
    for folder, labels in zip(folders[1:], others, strict=True):
        if _meaning(labels) != _meaning(first):
            raise DataError(
                f"{folder} has the classes of {labels.name!r}, {folders[0]} those of {first.name!r}; one number would "
                "mean two things, so these sets cannot be used together"
            )
    return first


def _meaning(labels: LabelSpace) -> tuple[object, ...]:
    """What the numbers of two sets must agree in."""
    return labels.classes, labels.ignore_index, labels.zero


def load_labels(folder: str) -> LabelSpace:
    """The label space of a run's masks.

    Raises:
        DataError: the run has none.
    """
    path = f"{folder.rstrip('/')}/{LABELS}"
    try:
        return LabelSpace.from_json(read_bytes(path).decode())
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: missing, so nothing says what the masks mean; give the folder of an ingest or a generate run"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: not a label space ({error}); copy it again from the run that made the pairs"
        ) from error


def some_shards(folder: str) -> list[str]:
    """Shards of a run.

    Raises:
        ShardError: there are none.
    """
    paths = list_shards(folder)
    if not paths:
        raise ShardError(
            f"no shards in {folder}/{MADE}; give the folder of a run that has made some, or run the job that makes them"
        )
    return paths
