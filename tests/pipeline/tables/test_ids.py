"""Ids and seeds come from content."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.tables.ids import canonical_json, pair_id, pair_seed, prompt_id, real_pair_id, text_digest


def test_ids_and_seeds_never_change() -> None:
    """These values are in people's shards: another value here means that no run can be resumed."""
    prompt = "a cat on a mat"
    assert prompt_id(prompt) == "404acc022d46664f"
    seed = pair_seed(0, prompt_id(prompt), 0)
    assert seed == 7133328083742922745
    assert pair_id(prompt, seed, "bundle", "{}") == "497cce96d4d0792a4a006364d92a6972"
    assert real_pair_id("voc", "2007_000032") == "73c2dfb6dafe235872aa421fd1b8034a"
    assert text_digest({"b": 1, "a": [1.5, "é"]}) == "9418f5031cfa1105"


def test_every_part_of_a_pair_counts() -> None:
    ids = {
        pair_id(*parts)
        for parts in [
            ("cat", 1, "bundle", "{}"),
            ("dog", 1, "bundle", "{}"),
            ("cat", 2, "bundle", "{}"),
            ("cat", 1, "other", "{}"),
            ("cat", 1, "bundle", '{"steps":20}'),
            ("{}\0cat", 1, "bundle", ""),
        ]
    }
    assert len(ids) == 6
    seeds = {pair_seed(*parts) for parts in [(0, "ab", 0), (1, "ab", 0), (0, "ac", 0), (0, "ab", 1), (-1, "ab", 0)]}
    assert len(seeds) == 5
    assert real_pair_id("voc", "x") != real_pair_id("coco", "x")


def test_seeds_are_non_negative_int64() -> None:
    seeds = [pair_seed(0, "prompt", repeat) for repeat in range(2000)]
    assert min(seeds) >= 0
    assert max(seeds) > 2**62
    np.testing.assert_array_equal(np.array(seeds, np.int64), seeds)


def test_canonical_json_ignores_order_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": 2}) == canonical_json({"a": 2, "b": 1}) == '{"a":2,"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
