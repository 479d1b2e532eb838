"""Prompts come from any kind of file, are used by their weights, and a plan is the same on every machine."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.data._internal.arrow_ops.transform_pyarrow import concat
from ray.data.block import BlockAccessor

from models.labels import GARMENTS
from pipeline.base.errors import DataError
from pipeline.base.turns import schedule
from pipeline.cluster.sink import ShardSink
from pipeline.cluster.todo import left_of_chunk
from pipeline.prompts.files import PROMPTS
from pipeline.prompts.read import (
    check_class_ids,
    distinct,
    prompts_digest,
    read_prompts,
    without_blank,
    without_gaps,
)
from pipeline.prompts.rows import prompt_rows
from pipeline.stages.pack import refine_and_pack
from pipeline.tables.conform import conform
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import Batch
from tests.tiny import save_pairs

ROWS = [
    {"prompt": "a red bag", "weight": 2.0, "class_ids": [8]},
    {"prompt": "a blue dress", "weight": 0.5, "class_ids": None},
]


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
    found = read_prompts(str(path))
    assert found.to_pylist() == [
        {"prompt": "b", "weight": 2.0, "class_ids": None},
        {"prompt": "a", "weight": 1.0, "class_ids": None},
    ]


def test_equal_prompts_ask_for_what_all_of_them_ask_for():
    texts, class_ids = ["a street", "a dog", "a street", "a dog", "a street"], [[3, 1], None, [1, 2], [2], None]
    table = prompts(texts, None, class_ids)
    assert distinct(table).to_pylist() == [
        {"prompt": "a street", "weight": 3.0, "class_ids": [1]},
        {"prompt": "a dog", "weight": 2.0, "class_ids": [2]},
    ]


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
        (
            "a.jsonl",
            '{"prompt": "a"}\n{"prompt": "b", "weight": 1e30}',
            "the weight of row 2 is 1e.30; weights are above 0",
        ),
        ("a.jsonl", '{"prompt": "a", "weight": 5e-324}', "the weight of row 1 is 5e-324; .* from 1e-20 to 1e.20"),
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


def test_blank_prompts_are_no_prompts_but_count_in_the_digest_as_they_did(tmp_path):
    """Runs that began with blank prompts in their plan hold their digest, and what they made is planned again."""
    (tmp_path / "a.txt").write_text("a\n\nb\n \t\n")
    found = read_prompts(str(tmp_path / "a.txt"))
    assert prompts_digest(found) == prompts_digest(prompts(["a", "", "b", " \t"])) == "22d39d2ba5c8a015"
    kept = without_blank(found)
    assert kept["prompt"].to_pylist() == ["a", "b"]
    for num in (1, 2, 5, 50):
        before, now = (
            set(zip(table["prompt"].take(pa.array(index)).to_pylist(), repeat.tolist(), strict=True))
            for table in (found, kept)
            for index, repeat in [schedule(table["weight"].to_numpy(), num)]
        )
        assert {one for one in before if one[0].strip()} <= now and len(now) == num


def test_classes_that_a_label_space_does_not_have_are_refused():
    check_class_ids(prompts(["a", "b", "c"], None, [[1, 8], [], None]), GARMENTS, "a.jsonl")
    for wrong in (0, 99, -3):
        with pytest.raises(
            DataError, match=rf"a.jsonl: prompt 'b' asks for \[1, {wrong}\]; label space 'garments' has"
        ):
            check_class_ids(prompts(["a", "b"], None, [[1], [1, wrong]]), GARMENTS, "a.jsonl")


def test_chunks_of_a_plan_are_its_rows_without_those_that_are_made():
    identity = {"run_seed": 0, "bundle_digest": "b", "sampler_settings": "{}"}
    found = prompts(["a", "b", "c"], [1.0, 2.0, 0.3])
    plan = left_of_chunk(found, pa.array([], pa.string()), 0, 100, identity)
    parts = [
        left_of_chunk(found, pa.array([], pa.string()), start, start + 20, identity) for start in range(0, 100, 20)
    ]
    assert pa.concat_tables(parts).equals(plan)
    done = pa.array(plan["pair_id"].to_pylist()[30:60])
    assert left_of_chunk(found, done, 20, 50, identity).equals(plan.slice(20, 10))


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
    rows = prompt_rows(
        pa.chunked_array([["a red bag", "a red bag"]]),
        np.array([0, 1]),
        run_seed=0,
        bundle_digest="b",
        sampler_settings="{}",
    ).to_pylist()
    assert [row["pair_id"] for row in rows] == ["57380b3523bd9348c5de291133ee3f44", "5444d0e44c5556e4ee9b443083e041dc"]
    assert [row["seed"] for row in rows] == [1985324962391082312, 5818785825175640329]


def test_the_digest_sees_texts_weights_and_classes():
    assert prompts_digest(prompts(["a", "b"])) == "128c48bae3be9b87", "as before prompts could name classes"
    others = [prompts(["a", "c"]), prompts(["a", "b"], [1, 2]), prompts(["a", "b"], [1, 1], [[1], None])]
    assert len({prompts_digest(one) for one in [prompts(["a", "b"]), *others]}) == 4


@pytest.mark.parametrize("known", [[[1], [2, 3], None, [], [4]], [None] * 5])
def test_classes_of_prompts_come_through_a_graph_in_any_mixture(known, tmp_path):
    """Ray takes the type of a column from its values, so blocks of one, several, no and unknown classes must agree."""
    identity = {"run_seed": 0, "bundle_digest": "b", "sampler_settings": "{}"}
    found = without_gaps(prompts(list("abcde"), None, known))
    rows = left_of_chunk(found, pa.array([], pa.string()), 0, 12, identity)
    assert rows.num_rows == 12
    blocks = [block_of(packed(batch_of(rows.slice(start, 2)))) for start in range(0, 12, 2)]
    joined = concat(blocks)  # as Ray does for a stage that takes more rows than a block has
    ShardSink(str(tmp_path)).write([block_of(batch_of(part)) for part in (joined.slice(0, 5), joined.slice(5))], None)
    wanted = {prompt: ids if not any(known) else ids or [] for prompt, ids in zip("abcde", known, strict=True)}
    made = read_shards([str(tmp_path)], ["prompt", "prompt_class_ids"])
    assert made["prompt_class_ids"].type == pa.list_(pa.int32())
    assert sorted(map(str, made.to_pylist())) == sorted(
        str({"prompt": prompt, "prompt_class_ids": wanted[prompt]}) for prompt in rows["prompt"].to_pylist()
    )


def prompts(texts: list[str], weights: list[float] | None = None, class_ids: Any = None) -> pa.Table:
    """A table as `read_prompts` gives it."""
    columns = {"prompt": texts, "weight": weights or [1.0] * len(texts)}
    return conform(
        pa.table(columns | ({"class_ids": pa.array(class_ids, PROMPTS[2].type)} if class_ids else {})), PROMPTS
    )


def packed(batch: Batch) -> Batch:
    """What sampling and packing give, of black pictures."""
    num = len(batch["prompt"])
    made = {"image": np.zeros((num, 4, 4, 3), np.uint8), "mask": np.zeros((num, 4, 4), np.uint8)}
    return refine_and_pack(
        {**batch, **made},
        refine={"min_area_px": 0, "fill_holes_px": 0},
        ignore_index=255,
        image_format="png",
        keep_confidence=False,
        origin={"origin": "synthetic"},
    )


def batch_of(block: pa.Table) -> Batch:
    return BlockAccessor.for_block(block).to_batch_format("numpy")


def block_of(batch: Batch) -> pa.Table:
    return BlockAccessor.batch_to_block(batch)
