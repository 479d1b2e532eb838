"""The plan of a generate run, without Ray."""

from __future__ import annotations

import pyarrow as pa

from pipeline.base.turns import schedule
from pipeline.generate import GenerateConfig
from pipeline.prompts.read import offsets_of, read_prompts, without_blank
from pipeline.prompts.rows import prompt_rows


def planned(config: GenerateConfig, bundle_digest: str) -> pa.Table:
    """PROMPT rows of all pairs."""
    prompts = without_blank(read_prompts(config.prompts))
    offsets = offsets_of(prompts["prompt"])
    index, repeat = schedule(prompts["weight"].to_numpy(), config.pairs, offsets=offsets)
    return prompt_rows(
        prompts["prompt"].take(pa.array(index)),
        repeat,
        run_seed=config.seed,
        bundle_digest=bundle_digest,
        sampler_settings=config.resolved().provenance(),
    )
