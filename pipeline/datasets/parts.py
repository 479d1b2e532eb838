"""Parts and samples of a set: what is trained on and held out where it has no splits, and what is looked at first."""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PartOf = Literal["all", "labelled"]
"""What is parted: all pictures, or those with masks; the others then belong to the part that begins at 0."""


def bounds_of(part: str) -> tuple[float, float]:
    """ "START:STOP" in per cent -> both.

    Raises:
        ValueError: something else.
    """
    start, colon, stop = part.partition(":")
    try:
        bounds = float(start), float(stop)
    except ValueError:
        colon = ""
        bounds = (0.0, 0.0)
    if not colon or not 0 <= bounds[0] < bounds[1] <= 100:
        raise ValueError(f"{part!r} is no part; write START:STOP in per cent, such as 0:80 or 80:90")
    return bounds


def place_of(key: str) -> float:
    """Where a pair of this name is among the parts of its set, from 0 to 100, by the hash of the name alone."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) / 2**64 * 100


def of_part(entries: pa.Table, part: str, part_of: PartOf = "all") -> pa.Table:
    """The entries (`pipeline.datasets.source.ENTRY`) of a part, START:STOP; "" takes all."""
    if not part:
        return entries
    start, stop = bounds_of(part)
    inside = pa.array([start <= place_of(key) < stop for key in entries["key"].to_pylist()], pa.bool_())
    if part_of == "labelled":
        inside = pc.if_else(labelled(entries), inside, start == 0)
    return entries.filter(inside)


def labelled(entries: pa.Table) -> pa.ChunkedArray:
    """Which of some entries have masks, bool."""
    return pc.not_equal(entries["mask"], "")


def num_labelled(entries: pa.Table) -> int:
    """How many entries have masks."""
    return pc.sum(labelled(entries)).as_py() or 0


def some_of(entries: pa.Table, num: int) -> pa.Table:
    """At most so many entries, evenly from all; but of those without masks a quarter at most, where there are others:
    masks are what may be understood wrongly."""
    has_mask = labelled(entries)
    drawn, bare = entries.filter(has_mask), entries.filter(pc.invert(has_mask))
    some = evenly(drawn, num - min(num // 4, bare.num_rows))
    return pa.concat_tables([some, evenly(bare, num - some.num_rows)])


def evenly(entries: pa.Table, num: int) -> pa.Table:
    """At most so many entries."""
    places = np.unique(np.linspace(0, max(entries.num_rows - 1, 0), num).astype(int))
    return entries.take(places[: entries.num_rows])
