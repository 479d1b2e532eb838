"""Ids and seeds come from content; tables are cast to their schema; pictures are seen by Hugging Face."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from ray.data.block import BlockAccessor

from pipeline.base.errors import ShardError
from pipeline.tables.conform import conform
from pipeline.tables.ids import canonical_json, latent_id, pair_id, pair_seed, prompt_id, real_pair_id, text_digest
from pipeline.tables.schema import ERROR, LATENT, PAIR, PICTURE, PROMPT, latent_schema, latent_shapes, viewable


def _objects(values: list[object]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _pair_columns(num_rows: int) -> dict[str, object]:
    return {
        "pair_id": [f"{row:032x}" for row in range(num_rows)],
        "image": [b"image"] * num_rows,
        "mask": [b"mask"] * num_rows,
        "height": [4] * num_rows,
        "width": [6] * num_rows,
        "class_ids": [[0, 3]] * num_rows,
        "class_pixels": [[20, 4]] * num_rows,
        "origin": ["synthetic"] * num_rows,
    }


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


def test_conform_fills_drops_orders_and_casts() -> None:
    table = conform(pa.table({"unknown": [1, 2], **_pair_columns(2)}), PAIR)
    assert table.schema.equals(PAIR, check_metadata=True)
    assert table["image"].to_pylist() == [{"bytes": b"image", "path": None}] * 2
    assert table["confidence"].null_count == table["prompt"].null_count == table["sampler"].null_count == 2
    assert table["origin"].type == pa.dictionary(pa.int32(), pa.string())
    assert conform(table, PAIR).equals(table)


def test_conform_takes_what_ray_makes_of_numpy_batches() -> None:
    """Ray stores equal-length arrays as one tensor type, ragged ones as another, and a column of None as nulls."""
    for class_ids in [[[0, 1], [0, 3]], [[0, 1, 2], [4]], [[], [2]]]:
        batch = {name: np.array(values) for name, values in _pair_columns(2).items() if "class" not in name}
        batch["class_ids"] = _objects([np.array(ids, np.int32) for ids in class_ids])
        batch["class_pixels"] = _objects([np.array(ids, np.int64) for ids in class_ids])
        batch["sampler"] = _objects([None, None])
        batch["confidence"] = _objects([None, b"map"])
        table = conform(BlockAccessor.batch_to_block(batch), PAIR)
        assert table["class_ids"].to_pylist() == table["class_pixels"].to_pylist() == class_ids
        assert table["sampler"].null_count == 2
        assert table["confidence"].to_pylist() == [None, {"bytes": b"map", "path": None}]


def test_conform_names_the_column_that_is_wrong() -> None:
    columns = _pair_columns(2)
    with pytest.raises(ShardError, match="'height': 2 of 2 rows have no value"):
        conform(pa.table({name: column for name, column in columns.items() if name != "height"}), PAIR)
    with pytest.raises(ShardError, match="'image': 1 of 2"):
        conform(pa.table({**columns, "image": [b"image", None]}), PAIR)
    with pytest.raises(ShardError, match="'width': string cannot become int32"):
        conform(pa.table({**columns, "width": ["wide", "4"]}), PAIR)


def test_conform_of_no_rows() -> None:
    for schema in (PROMPT, PAIR, ERROR, LATENT):
        assert conform(pa.table({}), schema).equals(schema.empty_table())


def test_hugging_face_metadata_follows_added_columns() -> None:
    schema = viewable(PAIR.append(pa.field("clip_score", pa.float32())).append(pa.field("overlay", PICTURE)))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["clip_score"] == {"dtype": "float32", "_type": "Value"}
    assert features["overlay"] == features["image"] == features["mask"] == {"_type": "Image"}
    assert features["origin"] == {"dtype": "string", "_type": "Value"}


def test_latents_carry_their_shapes() -> None:
    shapes = {"image_latent": (4, 8, 8), "text_embedding": (77, 64)}
    schema = latent_schema(shapes, encoders="abc")
    assert latent_shapes(schema) == shapes
    assert schema.metadata[b"encoders"] == b"abc"
    assert latent_id("ab", flipped=False) == "ab" != latent_id("ab", flipped=True)
