"""Manifest: what a run made, derived from its shards and never the other way round."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.files import read_bytes
from pipeline.storage.publish import write_bytes
from pipeline.tables.shards import FAILED, MADE, list_shards, map_shards, open_shard, shard_bytes

MANIFEST, THROUGHPUT = "manifest.json", "throughput.json"
_SMALL_COLUMNS = ("class_ids", "class_pixels", "bundle", "sampler", "reason")


@dataclass(frozen=True)
class Shard:
    """One file of a run: its name, and its size in rows and bytes."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class ClassShare:
    """What a run holds of one class: `pixels` in all its masks, `images` that show it."""

    pixels: int
    images: int


@dataclass(frozen=True)
class Manifest:
    """What a run made.

    Attributes:
        num_pairs: distinct keys in `shards/`, those of pictures without masks too.
        num_unlabelled: pictures without masks.
        num_duplicates: rows of `shards/` beyond the first of their key; 0 unless something went wrong (see shards.py).
        num_errors: distinct keys in `errors/` that are not in `shards/`.
        errors_by_reason: the same by reason.
        shards: the files in `shards/`, sorted by name.
        num_bytes: of all files in `shards/`.
        classes: share of each class id found.
        bundles: digests of the weights that made the pairs.
        samplers: settings of the sampler, canonical JSON.
        throughput: what the last start of a generate run did (`pipeline.cluster.watch.Watch`); {} for other runs.
    """

    num_pairs: int
    num_duplicates: int
    num_errors: int
    errors_by_reason: dict[str, int]
    shards: tuple[Shard, ...]
    num_bytes: int
    classes: dict[int, ClassShare]
    bundles: tuple[str, ...]
    samplers: tuple[str, ...]
    throughput: dict[str, Any] = field(default_factory=dict)
    num_unlabelled: int = 0

    @classmethod
    def scan(cls, folder: str) -> Manifest:
        """Reads footers and small columns of the shards in the run `folder`; pictures are not touched.

        Raises:
            ShardError: a broken shard, named.
        """
        made = map_shards(_scan_shard, list_shards(folder, MADE))
        failed = map_shards(_scan_shard, list_shards(folder, FAILED))
        keys = _join(small.column(0) for _, small in made)
        distinct = pc.unique(keys)
        reasons = {
            key: reason
            for _, small in failed
            for key, reason in zip(small.column(0).to_pylist(), small["reason"].to_pylist(), strict=True)
        }
        healed = pc.is_in(pa.array(reasons, pa.string()), distinct).to_pylist()
        errors = Counter(reason for reason, is_healed in zip(reasons.values(), healed, strict=True) if not is_healed)
        return cls(
            num_pairs=len(distinct),
            num_duplicates=len(keys) - len(distinct),
            num_errors=errors.total(),
            errors_by_reason=dict(sorted(errors.items())),
            shards=tuple(shard for shard, _ in made),
            num_bytes=sum(shard.bytes for shard, _ in made),
            classes=_class_shares([small for _, small in made]),
            bundles=_distinct("bundle", [small for _, small in made]),
            samplers=_distinct("sampler", [small for _, small in made]),
            throughput=_throughput(f"{folder.rstrip('/')}/{THROUGHPUT}"),
            num_unlabelled=len(pc.unique(_join(_unlabelled(small) for _, small in made))),
        )

    @classmethod
    def load(cls, path: str) -> Manifest:
        """Reads what `save` wrote."""
        fields = json.loads(read_bytes(path))
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["classes"] = {int(class_id): ClassShare(**share) for class_id, share in fields["classes"].items()}
        return cls(**{**fields, "bundles": tuple(fields["bundles"]), "samplers": tuple(fields["samplers"])})

    def save(self, path: str) -> None:
        """Writes JSON, whole or not at all."""
        write_bytes(path, json.dumps(asdict(self), indent=1).encode())


def _throughput(path: str) -> dict[str, Any]:
    try:
        return json.loads(read_bytes(path))
    except (FileNotFoundError, ValueError):
        return {}


def _scan_shard(path: str) -> tuple[Shard, pa.Table]:
    with open_shard(path) as file:
        names = file.schema_arrow.names
        small = [names[0], *(name for name in _SMALL_COLUMNS if name in names)]
        rows, table = file.metadata.num_rows, file.read(columns=small, use_threads=False)
    return Shard(path.rsplit("/", 1)[-1], rows, shard_bytes(path)), table


def _unlabelled(table: pa.Table) -> pa.ChunkedArray:
    """The keys of rows without classes: of latents, which have no such column, none."""
    if "class_ids" not in table.column_names:
        return table.column(0).slice(0, 0)
    return table.filter(pc.equal(pc.list_value_length(table["class_ids"]), 0)).column(0)


def _join(columns: Iterable[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())


def _class_shares(tables: list[pa.Table]) -> dict[int, ClassShare]:
    areas = [
        pa.table({"id": pc.list_flatten(table["class_ids"]), "pixels": pc.list_flatten(table["class_pixels"])})
        for table in tables
        if "class_ids" in table.column_names
    ]
    if not areas:
        return {}
    by_class = pa.concat_tables(areas).group_by("id", use_threads=False)
    sums = by_class.aggregate([("pixels", "sum"), ("pixels", "count")]).sort_by("id")
    return {row["id"]: ClassShare(row["pixels_sum"], row["pixels_count"]) for row in sums.to_pylist()}


def _distinct(column: str, tables: list[pa.Table]) -> tuple[str, ...]:
    found = [pc.unique(table[column]).to_pylist() for table in tables if column in table.column_names]
    return tuple(sorted(set(chain.from_iterable(found)) - {None}))
