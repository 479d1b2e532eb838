"""The real pair that a generated one is most like, and whether it is a copy of it.

What is near depends on the embedding, so no distance is small by itself: it is compared with the distance from that
real pair to the real one that is nearest to it. A picture that is much nearer to a real one than any other real picture
is has been copied (as the authenticity of Alaa et al., ICML 2022, has it). So the real pictures must be different ones:
one that is there twice is as near to itself as any copy is.

Legend: N real pairs, B others, D numbers of an embedding, K classes with 0.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from pipeline.curation.duplicates import alike
from pipeline.tables.scores import COPIES

ROWS_AT_ONCE = 1024
TINY = 1e-6


class Found(NamedTuple):
    """What is nearest to B pictures: `place` of the real pair (B,), `distance` to it and `ratio` (B,), and `rarity`
    (B,), NaN where no real pair holds any of the classes."""

    place: np.ndarray
    distance: np.ndarray
    ratio: np.ndarray
    rarity: np.ndarray


@dataclass(frozen=True)
class RealPairs:
    """What generated pairs are compared with.

    Attributes:
        ids: (N,) of the pairs, text.
        mean: (D,) of the embeddings as they were given.
        embeddings: (N, D) float32 without that mean, of length 1.
        hashes: (N,) int64 of the pictures; 0 for flat ones.
        holds: (N, K) bool: the classes of each.
        apart: (N,) float32: distance to the real pair that is nearest, at least TINY.
        ratios: (N,) float32: the ratio that each would have if it were generated, and not one of these.
    """

    ids: np.ndarray
    mean: np.ndarray
    embeddings: np.ndarray
    hashes: np.ndarray
    holds: np.ndarray
    apart: np.ndarray
    ratios: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, embeddings: np.ndarray, hashes: np.ndarray, holds: np.ndarray) -> RealPairs:
        """With their distances to each other; at least three pairs of pictures that are `distinct`.

        Args:
            ids, hashes, holds: as the attributes.
            embeddings: (N, D), of any length.
        """
        mean = embeddings.mean(0, dtype=np.float64).astype(np.float32)
        unit = unit_vectors(embeddings - mean)
        place, nearest, second = np.empty(len(ids), np.int64), *np.empty((2, len(ids)), np.float32)
        for start in range(0, len(ids), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            distance = 1 - unit[rows] @ unit.T
            distance[np.arange(len(distance)), np.arange(len(ids))[rows]] = np.inf
            two = np.argpartition(distance, 1, axis=1)[:, :2]
            near = np.take_along_axis(distance, two, 1)
            order = near.argsort(1)
            place[rows] = np.take_along_axis(two, order, 1)[:, 0]
            nearest[rows], second[rows] = np.take_along_axis(near, order, 1).T
        apart, further = np.maximum(nearest, TINY), np.maximum(second, TINY)
        # As if it were not there: its neighbour is then apart from the next one, where it was the nearest itself.
        without = np.where(place[place] == np.arange(len(ids)), further[place], apart[place])
        return cls(ids, mean, unit, hashes, holds, apart, apart / without)

    @property
    def copy_ratio(self) -> float:
        """Below it a pair is nearer to a real one than real ones are to each other, but for COPIES of them.

        Fewer than 1 / COPIES pairs hold no such quantile: the least of N ratios would call 1 in N + 1 new pictures a
        copy. It is then reckoned from how the least ones fall (Weissman, JASA 1978).
        """
        quantile = float(np.quantile(self.ratios, COPIES))
        num = len(self.ratios)
        if num * COPIES >= 1:
            return quantile
        least = np.maximum(np.sort(self.ratios)[: max(3, int(2 * num**0.5))], TINY)
        fall = float(np.log(least[-1] / least[:-1]).mean())
        return min(quantile, float(least[-1]) * (COPIES * num / len(least)) ** fall)

    def nearest(self, embeddings: np.ndarray, holds: np.ndarray) -> Found:
        """What is nearest to B others, of embeddings (B, D) and classes (B, K)."""
        distance = np.maximum(1 - unit_vectors(embeddings - self.mean) @ self.embeddings.T, 0)
        place = distance.argmin(1)
        least = distance[np.arange(len(place)), place]
        each = np.full(holds.shape, np.nan, np.float32)
        for one in np.flatnonzero(holds.any(0) & self.holds.any(0)).tolist():
            each[:, one] = distance[:, self.holds[:, one]].min(1)
        counted = holds & ~np.isnan(each)
        rarity = np.where(counted, each, 0).sum(1) / np.maximum(counted.sum(1), 1)
        return Found(place, least, least / self.apart[place], np.where(counted.any(1), rarity, np.nan))

    def to_bytes(self) -> bytes:
        """As an archive of numpy."""
        file = io.BytesIO()
        np.savez_compressed(file, **{one.name: getattr(self, one.name) for one in fields(self)})
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> RealPairs:
        """What `to_bytes` gave."""
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return cls(**{one.name: found[one.name] for one in fields(cls)})


def distinct(
    ids: np.ndarray, embeddings: np.ndarray, hashes: np.ndarray, holds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The first pair of each group whose pictures look alike, with the classes of all of them.

    Flat pictures have no hash; of these the same ones are a group.

    Args:
        ids, embeddings, hashes, holds: of M pairs, as `RealPairs.of` takes those of N.
    """
    first = np.arange(len(ids))
    hashed, flat = np.flatnonzero(hashes), np.flatnonzero(hashes == 0)
    first[hashed] = hashed[alike(hashes[hashed])]
    _, places, inverse = np.unique(embeddings[flat], axis=0, return_index=True, return_inverse=True)
    first[flat] = flat[places[inverse]]
    joined, kept = holds.copy(), first == np.arange(len(ids))
    np.logical_or.at(joined, first, holds)
    return ids[kept], embeddings[kept], hashes[kept], joined[kept]


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; one without length stays as it is."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, TINY)).astype(np.float32)
