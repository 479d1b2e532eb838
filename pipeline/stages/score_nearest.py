"""Scores of pairs by the real pairs that they are like: copies of them, and what is rare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.curation.coverage import MOST, coverage_file
from pipeline.curation.nearest import RealPairs, distinct
from pipeline.pictures.codec import decode_image
from pipeline.pictures.picture_hash import picture_hash
from pipeline.stages.embed import Embed, make_embed
from pipeline.tables.pairs import encoded
from pipeline.tables.scores import CoverageFile, score_schema

Read = Callable[[Sequence[str]], Iterator[pa.Table]]
"""Names of columns -> the rows of a set."""
READ = ("pair_id", "image", "class_ids")
FEWEST = 3
"""Real pairs: each needs two others."""


def nearest_scores(rows: pa.Table, *, embed: Embed, real: RealPairs, made_by: str) -> pa.Table:
    """Stage: packed pairs -> what real pairs they are like.

    Args:
        rows: the columns READ of PAIR.
        embed: of pictures.
        real: what they are compared with.
        made_by: the column `nearest_by`.
    """
    schema = score_schema("nearest")
    if not rows.num_rows:
        return schema.empty_table()
    embeddings, hashes, holds = _described(rows, embed, real.holds.shape[1])
    found = real.nearest(embeddings, holds)
    other = real.hashes[found.place]
    bits = np.bitwise_count((hashes ^ other).astype(np.uint64))
    columns: dict[str, Any] = {
        "pair_id": rows["pair_id"],
        "nearest_id": pa.array(real.ids[found.place].tolist()),
        "nearest_distance": found.distance,
        "nearest_ratio": found.ratio,
        "nearest_bits": pa.array(bits.astype(np.int32), mask=(hashes == 0) | (other == 0)),
        "rarity": pa.array(found.rarity.astype(np.float32), mask=np.isnan(found.rarity)),
        "nearest_by": [made_by] * rows.num_rows,
    }
    arrays = [
        pa.array(columns[name]) if not isinstance(columns[name], pa.ChunkedArray) else columns[name]
        for name in schema.names
    ]
    return pa.table(arrays, schema.names).cast(schema)


def make_nearest(content: bytes, embedder: str, device: str, made_by: str) -> Callable[[pa.Table], pa.Table]:
    """The stage of a process; `content` is of `RealPairs.to_bytes`."""
    real = RealPairs.from_bytes(content)
    return partial(nearest_scores, embed=make_embed(embedder, device), real=real, made_by=made_by)


def real_pairs(tables: Iterator[pa.Table], labels: LabelSpace, embedder: str, device: str) -> RealPairs:
    """What generated pairs are compared with, of tables with the columns READ.

    Raises:
        DataError: too few different pictures.
    """
    embed = make_embed(embedder, device)
    ids: list[str] = []
    parts = []
    for rows in tables:
        ids += rows["pair_id"].to_pylist()
        parts.append(_described(rows, embed, labels.num_classes + 1))
    embeddings, hashes, holds = (np.concatenate(one) for one in zip(*parts, strict=True))
    different = distinct(np.array(ids), embeddings, hashes, holds)
    if (num := len(different[0])) < FEWEST:
        raise DataError(f"real: {num} different pictures do not say how far real ones are apart; give {FEWEST}")
    return RealPairs.of(*different)


def describe_real(read: Read, labels: LabelSpace, embedder: str, device: str) -> tuple[bytes, float]:
    """The real pairs as `make_nearest` takes them, and below which ratio a pair is a copy."""
    real = real_pairs(read(READ), labels, embedder, device)
    return real.to_bytes(), round(real.copy_ratio, 6)


def describe_sets(sets: Sequence[Read], made_with: str, embedder: str, device: str) -> CoverageFile:
    """What the second set is to the first one, and the third one to it."""
    return coverage_file([embeddings_of(read, MOST, embedder, device) for read in sets], made_with)


def embeddings_of(read: Read, number: int, embedder: str, device: str) -> np.ndarray:
    """(N, D) embeddings of the first `number` pictures in the order of ids, which are digests: of a random sample.

    Args:
        read: of the set.
        number: at most.
        embedder, device: of `make_embed`.
    """
    embed = make_embed(embedder, device)
    ids = sorted(one for rows in read(["pair_id"]) for one in rows["pair_id"].to_pylist())[:number]
    chosen = (rows.filter(pc.is_in(rows["pair_id"], pa.array(ids))) for rows in read(READ))
    return np.concatenate([_described(rows, embed, 1)[0] for rows in chosen if rows.num_rows])


def _described(rows: pa.Table, embed: Embed, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (B, D), hashes (B,) int64 with 0 for flat pictures, and which classes each holds (B, K)."""
    images = [
        decode_image(encoded(row, "image"), f"pair {row['pair_id']}, image")
        for row in rows.select(["pair_id", "image"]).to_pylist()
    ]
    alike = len({one.shape for one in images}) == 1  # then a network sees them together
    embeddings = embed(np.stack(images)) if alike else np.concatenate([embed(one[None]) for one in images])
    hashes = np.array([picture_hash(one) or 0 for one in images], np.int64)
    holds = np.zeros((len(images), num_classes), bool)
    for number, ids in enumerate(rows["class_ids"].to_pylist()):
        holds[number, [one for one in ids or () if 0 < one < num_classes]] = True
    return embeddings, hashes, holds
