"""Verify: checks every byte that a run holds, or says what is wrong, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.labels import LabelSpace
from pipeline.base.errors import DataError, ShardError
from pipeline.pictures.codec import decode_image
from pipeline.storage.files import read_bytes
from pipeline.tables.ids import pair_id
from pipeline.tables.label_space import load_labels
from pipeline.tables.manifest import MANIFEST, Manifest
from pipeline.tables.pairs import encoded, has_mask, unpack_confidence, unpack_pair
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import FAILED, MADE, list_shards, map_shards, open_shard, shard_name

ROWS_AT_A_TIME = 32
Checked = tuple[pa.ChunkedArray, list[str]]
"""The keys of a shard, and what is wrong with it."""


def verify(
    folder: str,
    deep: bool = False,
    spread: Callable[[Callable[[str], Checked], list[str]], Iterable[Checked]] = map_shards,
) -> list[str]:
    """Looks for damage in a run's folder; gives one sentence for each problem, and none for a sound run.

    Finds shards that cannot be read, shards whose name is not the hash of the keys inside, keys that are in `shards/`
    twice, and a manifest that is not what the shards say. With `deep` every byte is read: checksums of pages are
    compared, every picture is decoded, sizes, class ids and areas are compared with the columns, and ids of generated
    pairs with what they are the hash of.

    Args:
        folder: of the run, a path or a URL.
        deep: read everything.
        spread: calls a function of each path, in order; in threads by default.
    """
    problems: list[str] = []
    made: list[tuple[str, pa.ChunkedArray]] = []
    labels: LabelSpace | None = None
    if deep:
        try:
            labels = load_labels(folder)
        except DataError as error:
            problems.append(str(error))
    for kind in (MADE, FAILED):
        paths = list_shards(folder, kind)
        for path, (keys, found) in zip(paths, spread(partial(check_shard, labels, deep), paths), strict=True):
            problems += found
            if kind == MADE:
                made.append((path, keys))
    problems += duplicates(made)
    return problems if problems else check_manifest(folder)


def check_shard(labels: LabelSpace | None, deep: bool, path: str) -> Checked:
    """Checks one file."""
    keys = pa.chunked_array([], pa.string())
    problems: list[str] = []
    try:
        with open_shard(path, checksums=deep) as file:
            names = file.schema_arrow.names
            keys = file.read(columns=names[:1], use_threads=False).column(0)
            if not path.endswith(f"/{shard_name(keys)}"):
                problems.append(f"{path}: the name is not the hash of the keys inside")
            if deep:
                columns = [name for name in PAIR.names if name in names]
                is_pairs = {"image", "mask"} <= set(names)
                batches = file.iter_batches(ROWS_AT_A_TIME, columns=columns if is_pairs else None, use_threads=False)
                for batch in batches:
                    for row in batch.to_pylist() if is_pairs else ():
                        problems += check_pair(f"{path}, {row[names[0]]}", row, labels)
    except ShardError as error:
        problems.append(str(error))
    return keys, problems


def check_pair(where: str, row: dict[str, Any], labels: LabelSpace | None) -> list[str]:
    """Checks one row of PAIR."""
    size = (row["height"], row["width"])
    try:
        if not has_mask(row):
            return check_picture(where, row)
        pair = unpack_pair(row, labels, where)
        if encoded(row, "confidence"):
            unpack_confidence(row, pair.image, where)
    except DataError as error:
        return [str(error)]
    problems = []
    if pair.mask.shape != size:
        found = pair.mask.shape
        problems.append(
            f"{where}: image and mask have {found[0]} x {found[1]} pixels (height x width), the row says {size[0]} x "
            f"{size[1]}"
        )
    if (row["class_ids"], row["class_pixels"]) != (pair.class_ids.tolist(), pair.class_pixels.tolist()):
        problems.append(f"{where}: class_ids and class_pixels are not what the mask holds")
    parts = [row.get(name) for name in ("prompt", "seed", "bundle", "sampler")]
    if row["origin"] == "synthetic" and None not in parts and row["pair_id"] != pair_id(*parts):  # type: ignore[arg-type]
        problems.append(f"{where}: the id is not the hash of prompt, seed, bundle and sampler")
    return problems


def check_picture(where: str, row: dict[str, Any]) -> list[str]:
    """Checks one row of PAIR that has no mask.

    Raises:
        DataError: a picture that is missing or cannot be decoded.
    """
    image = decode_image(encoded(row, "image"), f"{where}, image")
    problems = []
    if image.shape[:2] != (row["height"], row["width"]):
        problems.append(
            f"{where}: the image has {image.shape[0]} x {image.shape[1]} pixels (height x width), the row says "
            f"{row['height']} x {row['width']}"
        )
    if row["origin"] != "real" or row["class_ids"] or row["class_pixels"]:
        problems.append(f"{where}: there is no mask, though the row is {row['origin']} with classes {row['class_ids']}")
    return problems


def duplicates(made: list[tuple[str, pa.ChunkedArray]]) -> list[str]:
    """Keys that are in several of the files."""
    counts = pc.value_counts(pa.chunked_array([chunk for _, keys in made for chunk in keys.chunks], pa.string()))
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    places: dict[str, list[str]] = {key: [] for key in doubled.to_pylist()}
    if places:
        for path, keys in made:
            for key in keys.filter(pc.is_in(keys, doubled)).to_pylist():
                places[key].append(path)
    return [f"key {key} is there {len(paths)} times: {', '.join(paths)}" for key, paths in places.items()]


def check_manifest(folder: str) -> list[str]:
    """Compares the manifest, where there is one, with the shards."""
    path = f"{folder.rstrip('/')}/{MANIFEST}"
    try:
        read_bytes(path)
        kept = Manifest.load(path)
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        return [f"{path}: damaged ({error}); the job that made the run writes it again"]
    found = Manifest.scan(folder)
    differing = [name for name in vars(found) if getattr(found, name) != getattr(kept, name)]
    return [f"{path}: {', '.join(differing)} are not what the shards say; run the job again"] if differing else []
