"""Prompts come from any kind of file, are used by their weights, and a plan is the same on every machine."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from pipeline.prompts import plan, prompts_digest, read_prompts, schedule
from tests.tiny import save_pairs

ROWS = [{"prompt": "a red bag", "weight": 2.0}, {"prompt": "a blue dress", "weight": 0.5}]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_weighted_prompts_of_a_table(tmp_path, kind):
    path = tmp_path / f"prompts.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({**row, "other": 1}) for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    assert read_prompts(str(path)).to_pylist() == ROWS


def test_a_prompt_that_stands_twice_weighs_twice(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("b\na\nb\n", encoding="utf-8-sig")
    assert read_prompts(str(path)).to_pylist() == [{"prompt": "b", "weight": 2.0}, {"prompt": "a", "weight": 1.0}]


def test_captions_of_a_pair_set(tmp_path):
    found = read_prompts(str(save_pairs(tmp_path / "real", 6)))
    assert found["weight"].to_numpy().sum() == 6 and all(found["prompt"].to_pylist())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "\n \n", "holds no prompts"),
        ("a.jsonl", '{"text": "a"}', "has no column `prompt`, only text"),
        ("a.jsonl", '{"prompt": "a"', "cannot read prompts"),
        ("a.jsonl", '{"prompt": "a", "weight": 0}', "the weight of row 1 is 0.0; weights are above 0"),
        ("a.parquet", "no parquet", "cannot read prompts"),
    ],
)
def test_bad_sources_are_explained(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_prompts(str(tmp_path / name))


def test_a_missing_or_binary_source_is_explained(tmp_path):
    with pytest.raises(DataError, match="nowhere.txt: cannot read prompts, nothing is there"):
        read_prompts(str(tmp_path / "nowhere.txt"))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read prompts"):
        read_prompts(str(tmp_path / "a.txt"))


def test_equal_weights_take_turns():
    index, repeat = schedule(np.ones(3), 7)
    assert index.tolist() == [0, 1, 2, 0, 1, 2, 0] and repeat.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_any_part_of_a_plan_follows_the_weights_and_a_longer_one_begins_like_it():
    weights = np.random.default_rng(0).uniform(0.1, 5, 50)
    index, repeat = schedule(weights, 20_000)
    for num in (1000, 7777):
        shorter = schedule(weights, num)
        assert np.array_equal(shorter[0], index[:num]) and np.array_equal(shorter[1], repeat[:num])
        counts = np.bincount(index[:num], minlength=50)
        assert np.abs(counts - num * weights / weights.sum()).max() <= 1
    assert max(Counter(zip(index.tolist(), repeat.tolist(), strict=True)).values()) == 1
    for prompt in range(50):
        assert repeat[index == prompt].tolist() == list(range((index == prompt).sum()))


def test_ids_of_a_plan_stay_what_they_are():
    """Ids and seeds are in people's shards: a change here makes every run anew."""
    rows = plan(
        pa.chunked_array([["a red bag", "a red bag"]]),
        np.array([0, 1]),
        run_seed=0,
        bundle_digest="b",
        sampler_settings="{}",
    ).to_pylist()
    assert [row["pair_id"] for row in rows] == ["57380b3523bd9348c5de291133ee3f44", "5444d0e44c5556e4ee9b443083e041dc"]
    assert [row["seed"] for row in rows] == [1985324962391082312, 5818785825175640329]


def test_the_digest_sees_texts_and_weights(tmp_path):
    table = pa.table({"prompt": ["a", "b"], "weight": [1.0, 1.0]})
    others = [{"prompt": ["a", "c"], "weight": [1.0, 1.0]}, {"prompt": ["a", "b"], "weight": [1.0, 2.0]}]
    assert len({prompts_digest(table), *(prompts_digest(pa.table(other)) for other in others)}) == 3
