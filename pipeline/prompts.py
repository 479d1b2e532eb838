"""Prompts: what to generate from, and in which order and how often each is used."""

from __future__ import annotations

import io
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.schema import PROMPT, pair_id, pair_seed, prompt_id
from pipeline.shards import list_shards, read_shards
from pipeline.storage import read_bytes

PROMPTS = pa.schema([("prompt", pa.string()), ("weight", pa.float64())])
"""Distinct prompts; one of weight 2 is used twice as often as one of weight 1."""

KINDS = "a text file with one prompt per line, .jsonl or .parquet with a column `prompt` (and `weight`), or a run"


def read_prompts(source: str) -> pa.Table:
    """Distinct prompts of a file or of a run (the captions of its pairs), in the order of their first use.

    Raises:
        DataError: missing, not readable, without prompts, or weights that are not above 0; says where.
    """
    rows = _read(source)
    weights = rows["weight"].fill_null(1.0).to_numpy()
    if wrong := np.flatnonzero(~(np.isfinite(weights) & (weights > 0))).tolist():
        raise DataError(f"{source}: the weight of row {wrong[0] + 1} is {weights[wrong[0]]}; weights are above 0")
    rows = pa.table([pc.fill_null(rows["prompt"], ""), weights], schema=PROMPTS)
    if not pc.any(pc.not_equal(pc.utf8_trim_whitespace(rows["prompt"]), "")).as_py():
        raise DataError(f"{source}: holds no prompts; give {KINDS}")
    # One thread keeps the order of first occurrence.
    distinct = rows.group_by("prompt", use_threads=False).aggregate([("weight", "sum")])
    return distinct.select(["prompt", "weight_sum"]).rename_columns(PROMPTS.names).cast(PROMPTS)


def prompts_digest(prompts: pa.Table) -> str:
    """16 hex digits of all prompts and their weights."""
    found = blake2b(prompts["weight"].to_numpy().tobytes(), digest_size=8)
    found.update("\0".join(prompts["prompt"].to_pylist()).encode())
    return found.hexdigest()


def schedule(weights: np.ndarray, num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Which prompt each pair of a plan takes, and for which time.

    Repeat r of a prompt of weight w is due at (r + 1/2) / w; pairs come in the order in which they are due, so a longer
    plan begins like a shorter one, and any part of it uses prompts by their weights.

    Args:
        weights: (P,) float64, above 0.
        num_pairs: N.

    Returns:
        Index of the prompt (N,) int64 and its repeat (N,) int32, from 0.
    """
    low, high = 0.0, 1.0
    while np.floor(weights * high + 0.5).sum() < num_pairs:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if np.floor(weights * middle + 0.5).sum() < num_pairs:
            low = middle
        else:
            high = middle
    uses = np.floor(weights * high + 0.5).astype(np.int64) + 1  # one more, for what rounding does at the border
    index = np.repeat(np.arange(len(weights)), uses)
    repeat = np.arange(len(index)) - np.repeat(np.cumsum(uses) - uses, uses)
    order = np.lexsort((index, (repeat + 0.5) / weights[index]))[:num_pairs]
    return index[order], repeat[order].astype(np.int32)


def plan(
    prompts: pa.ChunkedArray, repeats: np.ndarray, *, run_seed: int, bundle_digest: str, sampler_settings: str
) -> pa.Table:
    """PROMPT rows of pairs: ids and seeds follow from content, never from where or when they are made.

    Args:
        prompts: text of each pair.
        repeats: of its prompt.
        run_seed, bundle_digest, sampler_settings: as in `pipeline.schema.pair_seed` and `pair_id`.
    """
    rows = []
    ids: dict[str, str] = {}
    for prompt, repeat in zip(prompts.to_pylist(), repeats.tolist(), strict=True):
        name = ids.get(prompt) or ids.setdefault(prompt, prompt_id(prompt))
        seed = pair_seed(run_seed, name, repeat)
        rows.append((pair_id(prompt, seed, bundle_digest, sampler_settings), name, prompt, seed, repeat))
    columns = zip(*rows, strict=True) if rows else ((),) * len(PROMPT)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, PROMPT, strict=True)], schema=PROMPT
    )


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
    except (pa.ArrowException, UnicodeDecodeError, IsADirectoryError) as error:
        raise DataError(f"{source}: cannot read prompts ({str(error).splitlines()[0]}); give {KINDS}") from error


def _weighted(table: pa.Table, source: str) -> pa.Table:
    if "prompt" not in table.column_names:
        raise DataError(f"{source}: has no column `prompt`, only {', '.join(table.column_names)}; give {KINDS}")
    if "weight" not in table.column_names:
        table = table.append_column("weight", pa.nulls(table.num_rows, pa.float64()))
    return pa.table({"prompt": table["prompt"].cast(pa.string()), "weight": table["weight"].cast(pa.float64())})
