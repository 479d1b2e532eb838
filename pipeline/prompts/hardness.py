"""Prompts for what a segmenter fails at come more often."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.places import as_given
from pipeline.storage.files import read_bytes

PROOF = "proof.json"


def failing(folder: str, row: str, labels: LabelSpace) -> dict[int, float]:
    """1 - IoU of each foreground class, mean over seeds, of a row of an evaluate run; classes that the test does not
    hold are left out.

    Args:
        folder: of the run.
        row: name of the set; "" is the first one.
        labels: of the prompts.

    Raises:
        DataError: no proof, no such row, or other classes.
    """
    path = f"{folder}/{PROOF}"
    try:
        proof = json.loads(read_bytes(path))
        rows = {one["name"]: one["iou"] for one in proof["sets"]}
        classes = list(proof["classes"])
    except FileNotFoundError:
        raise DataError(f"{as_given(folder)}: no {PROOF}; jobs.evaluate makes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not what jobs.evaluate writes; run it again") from error
    if classes != list(labels.classes):
        raise DataError(f"{as_given(folder)}: its classes are {', '.join(classes)}, the prompts' others")
    found: Mapping[str, Sequence[float | None]] | None = rows.get(row) if row else next(iter(rows.values()), None)
    if found is None:
        raise DataError(f"{as_given(folder)}: no row {row!r}; there are {', '.join(rows)}")
    known = {name: [one for one in ious if one is not None] for name, ious in found.items()}
    return {
        number: 1 - float(np.mean(known[name])) for number, name in enumerate(classes) if number and known.get(name)
    }


def by_hardness(asked: Sequence[Sequence[int] | None], fails: Mapping[int, float], most: float) -> np.ndarray:
    """How often each prompt comes, in multiples of the easiest one: from 1 to `most`, by rank.

    A prompt is as hard as the classes that it asks for are on average (FreeMask, NeurIPS 2023, section 3.4, which ranks
    masks by their mean loss). One whose classes are not known lies in the middle.

    Args:
        asked: of each prompt the ids of its classes, None where they are not known.
        fails: of each class, more where it is harder.
        most: factor of the hardest one, at least 1.

    Returns:
        (P,) float64.
    """
    hard = [[fails[one] for one in ids or () if one in fails] for ids in asked]
    known = [float(np.mean(one)) for one in hard if one]
    middle = float(np.median(known)) if known else 0.0
    ranks = rankdata([float(np.mean(one)) if one else middle for one in hard])
    return 1 + (most - 1) * (ranks - 1) / max(1, len(ranks) - 1)
