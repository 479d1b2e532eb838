"""A long tail out of a set whose classes are all alike: the last class is left `rarest` times as rare as the first.

`python -m benchmarks.long_tail runs/garments/many runs/garments/tail` writes a selection: a view of the pairs, which
stands wherever their run does. Each class has a chance, falling geometrically from 1 to 1 / `rarest`; a picture stays
with the product of the chances of its classes, so that classes are as rare in pictures of one as in those of several.
What is drawn follows from the pair's id alone.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter

import numpy as np
import pyarrow as pa

from pipeline.storage.publish import write_bytes
from pipeline.tables.label_space import LABELS, load_labels
from pipeline.tables.rows import read_shards
from pipeline.tables.selection import SELECTION, require_run, write_selection

REASON = "long_tail"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="folder of a run of labelled pairs")
    parser.add_argument("selection", help="folder that the selection is written into")
    parser.add_argument("--rarest", type=float, default=64.0)
    given = parser.parse_args()
    if given.rarest < 1:
        parser.error("--rarest: the first class is at least as common as the last; give 1 or more")
    require_run(given.pairs)
    labels = load_labels(given.pairs)
    rows = read_shards([given.pairs], ["pair_id", "class_ids"])
    if rows["class_ids"].null_count:
        parser.error(
            f"{given.pairs}: some pictures have no mask, so that nothing says what they show; label them first"
        )
    ids = rows["pair_id"].to_pylist()
    classes = [[one for one in some if 1 <= one <= labels.num_classes] for some in rows["class_ids"].to_pylist()]
    kept = chosen(ids, classes, chances(labels.num_classes, given.rarest))
    reasons = pa.array([None if one else REASON for one in kept], pa.string())
    write_selection(
        given.selection, given.pairs, pa.table([ids, reasons.cast(SELECTION.field("reason").type)], SELECTION)
    )
    write_bytes(f"{given.selection}/{LABELS}", labels.to_json().encode())
    seen = Counter(one for some, stays in zip(classes, kept, strict=True) if stays for one in some)
    sys.stdout.write(f"{sum(kept):,} of {len(ids):,} pairs; pictures of each class: ")
    sys.stdout.write(
        ", ".join(f"{labels.classes[one]} {seen[one]:,}" for one in range(1, labels.num_classes + 1)) + "\n"
    )


def chances(num_classes: int, rarest: float) -> np.ndarray:
    """(K + 1,) of a class in a picture of it alone: id 1 always stays; id 0 counts for nothing."""
    return np.concatenate([[1.0], rarest ** -np.linspace(0, 1, num_classes)])


def chosen(ids: list[str], classes: list[list[int]], chance: np.ndarray) -> list[bool]:
    """Which pairs stay: those whose draw, a digest of their id, lies below the product of their chances. Not the
    id: slices go by its order, and the rare would come first."""
    draws = [int.from_bytes(hashlib.blake2b(one.encode(), digest_size=6).digest(), "big") / 2**48 for one in ids]
    return [draw < float(np.prod(chance[some])) for draw, some in zip(draws, classes, strict=True)]


if __name__ == "__main__":
    main()
