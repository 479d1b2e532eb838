"""Prompts: what to generate from, and in which order and how often each is used."""

from __future__ import annotations

import io
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from pipeline.base.errors import DataError, ShardError
from pipeline.storage.files import read_bytes
from pipeline.tables.conform import conform
from pipeline.tables.ids import canonical_json
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import list_shards

PROMPTS = pa.schema([("prompt", pa.string()), ("weight", pa.float64()), ("class_ids", pa.list_(pa.int32()))])
"""Distinct prompts; one of weight 2 is used twice as often as one of weight 1. `class_ids` are the classes that a
prompt asks for, ascending; null where that is not known."""
KINDS = (
    "a text file with one prompt per line, .jsonl or .parquet with a column `prompt` (and `weight`, `class_ids`), or a "
    "run"
)


def read_prompts(source: str) -> pa.Table:
    """Distinct prompts of a file or of a run (the captions of its pairs), in the order of their first use.

    Raises:
        DataError: missing, not readable, without prompts, or weights that are not above 0; says where.
    """
    rows = _read(source)
    weights = rows["weight"].fill_null(1.0).to_numpy()
    if wrong := np.flatnonzero(~(np.isfinite(weights) & (weights > 0))).tolist():
        raise DataError(f"{source}: the weight of row {wrong[0] + 1} is {weights[wrong[0]]}; weights are above 0")
    rows = pa.table([pc.fill_null(rows["prompt"], ""), weights, rows["class_ids"]], schema=PROMPTS)
    if not pc.any(pc.not_equal(pc.utf8_trim_whitespace(rows["prompt"]), "")).as_py():
        raise DataError(f"{source}: holds no prompts; give {KINDS}")
    return distinct(rows)


def distinct(rows: pa.Table) -> pa.Table:
    """PROMPTS with every prompt once, in the order of first use: weights are added up, and of the classes of equal
    prompts those stay that all of them ask for."""
    # One thread keeps the order of first occurrence.
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


def prompts_digest(prompts: pa.Table) -> str:
    """16 hex digits of all prompts, their weights, and their classes where any are known."""
    found = blake2b(prompts["weight"].to_numpy().tobytes(), digest_size=8)
    found.update("\0".join(prompts["prompt"].to_pylist()).encode())
    if prompts["class_ids"].null_count < prompts.num_rows:
        found.update(canonical_json(prompts["class_ids"].to_pylist()).encode())
    return found.hexdigest()


def _read(source: str) -> pa.Table:
    if list_shards(source):
        rows = read_shards([source], ["pair_id", "prompt"]).sort_by("pair_id")
        return _weighted(rows.select(["prompt"]), source)
    try:
        content = read_bytes(source)
        if source.endswith(".parquet"):
            return _weighted(pq.read_table(io.BytesIO(content)), source)
        if source.endswith((".jsonl", ".ndjson")):
            return _weighted(pyarrow.json.read_json(io.BytesIO(content)), source)
        return _weighted(pa.table({"prompt": pa.array(content.decode("utf-8-sig").splitlines(), pa.string())}), source)
    except FileNotFoundError as error:
        raise DataError(f"{source}: cannot read prompts, nothing is there; give {KINDS}") from error
    except (pa.ArrowException, ShardError, UnicodeDecodeError, IsADirectoryError) as error:
        raise DataError(f"{source}: cannot read prompts ({str(error).splitlines()[0]}); give {KINDS}") from error


def _weighted(table: pa.Table, source: str) -> pa.Table:
    if "prompt" not in table.column_names:
        raise DataError(f"{source}: has no column `prompt`, only {', '.join(table.column_names)}; give {KINDS}")
    return conform(table, PROMPTS)


def without_gaps(prompts: pa.Table) -> pa.Table:
    """PROMPTS for Ray, which takes the type of a column from the values in a block: where the classes of some prompts
    are known, those of the others become an empty list. None between arrays would be pickled, and None alone would
    become NaN: where no classes are known, `prompt_class_ids` must not go through a graph."""
    class_ids = prompts["class_ids"]
    if class_ids.null_count == prompts.num_rows:
        return prompts
    filled = pa.array([ids or [] for ids in class_ids.to_pylist()], class_ids.type)
    return prompts.set_column(2, PROMPTS.field("class_ids"), filled)
