"""Prompts: what to generate from, and in which order and how often each is used."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa

from models.labels import LabelSpace
from pipeline.base.errors import DataError, ShardError
from pipeline.prompts.files import KINDS, PROMPTS, read_file
from pipeline.tables.conform import conform
from pipeline.tables.ids import canonical_json
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import list_shards

LEAST_WEIGHT, GREATEST_WEIGHT = 1e-20, 1e20
"""Further apart, times at which prompts are due could not be told from each other (`pipeline.base.turns`)."""


def read_prompts(source: str) -> pa.Table:
    """Distinct prompts of a file or of a run (the captions of its pairs), in the order of their first use. Blank ones
    are among them, see `without_blank`.

    Raises:
        DataError: missing, not readable, without prompts, or weights that are not above 0; says where.
    """
    return distinct(read_rows(source))


def read_rows(source: str) -> pa.Table:
    """As `read_prompts`, with prompts that stand twice."""
    rows = _read(source)
    weights = rows["weight"].fill_null(1.0).to_numpy()
    if wrong := np.flatnonzero(~((weights >= LEAST_WEIGHT) & (weights <= GREATEST_WEIGHT))).tolist():
        raise DataError(
            f"{source}: the weight of row {wrong[0] + 1} is {weights[wrong[0]]}; weights are above 0, from "
            f"{LEAST_WEIGHT:g} to {GREATEST_WEIGHT:g}"
        )
    rows = pa.table([rows["prompt"].fill_null(""), weights, rows["class_ids"]], schema=PROMPTS)
    if not without_blank(rows).num_rows:
        raise DataError(f"{source}: holds no prompts; give {KINDS}")
    return rows


def without_blank(prompts: pa.Table) -> pa.Table:
    """PROMPTS that hold a text: what is planned. An empty line is no prompt, and takes no share of the pairs.

    Runs that began when it did go on all the same. The digest that they keep counts blank prompts, and does so still.
    And without those every other prompt is due earlier, never later: the first N pairs of the plan hold all that were
    made of the first N with them. What blank ones left in errors/ stays there.
    """
    return prompts.filter(pa.array([bool(text.strip()) for text in prompts["prompt"].to_pylist()], pa.bool_()))


def check_class_ids(prompts: pa.Table, labels: LabelSpace, source: str) -> None:
    """Raises DataError where a prompt is said to ask for what is no class of `labels`, or for the background."""
    for prompt, class_ids in zip(prompts["prompt"].to_pylist(), prompts["class_ids"].to_pylist(), strict=True):
        if not all(1 <= one <= labels.num_classes for one in class_ids or ()):
            raise DataError(
                f"{source}: prompt {prompt!r} asks for {class_ids}; label space {labels.name!r} has classes 1 to "
                f"{labels.num_classes}, and the background is not asked for"
            )


def distinct(rows: pa.Table) -> pa.Table:
    """PROMPTS with every prompt once, in an order that follows from the rows: weights are added up, and of the classes
    of equal prompts those stay that all of them ask for."""
    # Several threads would give another order each time.
    summed = rows.group_by("prompt", use_threads=False).aggregate([("weight", "sum")])
    prompts, class_ids = summed["prompt"], pa.nulls(summed.num_rows, PROMPTS.field("class_ids").type)
    if rows["class_ids"].null_count < rows.num_rows:
        shared: dict[str, set[int]] = {}
        for prompt, ids in zip(rows["prompt"].to_pylist(), rows["class_ids"].to_pylist(), strict=True):
            if ids is not None:
                shared[prompt] = shared.get(prompt, set(ids)) & set(ids)
        found = [sorted(shared[prompt]) if prompt in shared else None for prompt in prompts.to_pylist()]
        class_ids = pa.array(found, class_ids.type)
    return pa.table([prompts, summed["weight_sum"], class_ids], schema=PROMPTS)


def offsets_of(prompts: pa.ChunkedArray) -> np.ndarray:
    """(P,) float64 between 0 and 1, drawn by the text of each prompt: when its turn comes among the others'."""
    drawn = [blake2b(text.encode(), digest_size=4, person=b"turns").digest() for text in prompts.to_pylist()]
    return (np.frombuffer(b"".join(drawn), "<u4").astype(np.float64) + 0.5) / 2**32


def prompts_digest(prompts: pa.Table) -> str:
    """16 hex digits of all prompts, their weights, and their classes where any are known."""
    found = blake2b(prompts["weight"].to_numpy().tobytes(), digest_size=8)
    found.update("\0".join(prompts["prompt"].to_pylist()).encode())
    if prompts["class_ids"].null_count < prompts.num_rows:
        found.update(canonical_json(prompts["class_ids"].to_pylist()).encode())
    return found.hexdigest()


def _read(source: str) -> pa.Table:
    if list_shards(source):
        return conform(read_shards([source], ["pair_id", "prompt"]).sort_by("pair_id").select(["prompt"]), PROMPTS)
    try:
        return read_file(source)
    except FileNotFoundError as error:
        raise DataError(f"{source}: cannot read prompts, nothing is there; give {KINDS}") from error
    except (pa.ArrowException, ShardError, IsADirectoryError) as error:
        raise DataError(f"{source}: cannot read prompts ({str(error).splitlines()[0]}); give {KINDS}") from error


def without_gaps(prompts: pa.Table) -> pa.Table:
    """PROMPTS for Ray, which takes the type of a column from the values in a block: where the classes of some prompts
    are known, those of the others become an empty list. None between arrays would be pickled, and None alone would
    become NaN: where no classes are known, `prompt_class_ids` must not go through a graph."""
    class_ids = prompts["class_ids"]
    if class_ids.null_count == prompts.num_rows:
        return prompts
    filled = pa.array([ids or [] for ids in class_ids.to_pylist()], class_ids.type)
    return prompts.set_column(2, PROMPTS.field("class_ids"), filled)
