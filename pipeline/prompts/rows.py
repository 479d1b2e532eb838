"""Rows of PROMPT: the pairs still to be made."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.json

from pipeline.tables.ids import pair_id, pair_seed, prompt_id
from pipeline.tables.schema import PROMPT


def prompt_rows(
    prompts: pa.ChunkedArray,
    repeats: np.ndarray,
    class_ids: pa.ChunkedArray | None = None,
    *,
    run_seed: int,
    bundle_digest: str,
    sampler_settings: str,
) -> pa.Table:
    """PROMPT rows of pairs: ids and seeds follow from content, never from where or when they are made.

    Args:
        prompts: text of each pair.
        repeats: of its prompt.
        class_ids: that its prompt asks for, lists of int32; None where that is known of no prompt.
        run_seed, bundle_digest, sampler_settings: as in `pipeline.tables.ids.pair_seed` and `pair_id`.
    """
    rows = []
    ids: dict[str, str] = {}
    for prompt, repeat in zip(prompts.to_pylist(), repeats.tolist(), strict=True):
        name = ids.get(prompt) or ids.setdefault(prompt, prompt_id(prompt))
        seed = pair_seed(run_seed, name, repeat)
        rows.append((pair_id(prompt, seed, bundle_digest, sampler_settings), name, prompt, seed, repeat))
    columns = list(zip(*rows, strict=True)) if rows else [()] * (len(PROMPT) - 1)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, list(PROMPT)[:-1], strict=True)]
    return pa.table([*arrays, pa.nulls(len(rows), PROMPT[-1].type) if class_ids is None else class_ids], schema=PROMPT)
