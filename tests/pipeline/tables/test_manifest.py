"""The manifest says what is in the shards, and nothing else; `verify` finds damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.labels import GARMENTS
from pipeline.base.errors import ShardError
from pipeline.cluster.sink import ShardSink
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables.conform import conform
from pipeline.tables.label_space import LABELS
from pipeline.tables.manifest import ClassShare, Manifest
from pipeline.tables.schema import PAIR
from pipeline.verify import verify

IDS = [f"{row:032x}" for row in range(100)]


def write(folder: Path, ids: list[str], **columns: Any) -> list[str]:
    count = len(ids)
    GARMENTS.save(folder / LABELS)
    rows = {
        "pair_id": ids,
        "image": [encode_image(np.zeros((4, 6, 3), np.uint8))] * count,
        "mask": [encode_mask(np.eye(4, 6, dtype=np.uint8))] * count,
        "height": [4] * count,
        "width": [6] * count,
        "class_ids": [[0, 1]] * count,
        "class_pixels": [[20, 4]] * count,
        "origin": ["synthetic"] * count,
        "bundle": ["bundle"] * count,
        "sampler": ['{"steps":20}'] * count,
        "error": [""] * count,
    }
    return ShardSink(str(folder), 10).write([pa.table({**rows, **columns})], None)


def test_scan_counts_what_is_there(tmp_path: Path) -> None:
    names = write(tmp_path, IDS[:20])
    names += write(tmp_path, IDS[20:22], class_ids=[[3], []], class_pixels=[[24], []], bundle=["other", None])
    write(tmp_path, IDS[22:25], error=["empty_prompt", "sampler_failed", "empty_prompt"])
    manifest = Manifest.scan(str(tmp_path))
    assert (manifest.num_pairs, manifest.num_duplicates, manifest.num_errors) == (22, 0, 3)
    assert manifest.errors_by_reason == {"empty_prompt": 2, "sampler_failed": 1}
    assert manifest.classes == {0: ClassShare(400, 20), 1: ClassShare(80, 20), 3: ClassShare(24, 1)}
    assert (manifest.bundles, manifest.samplers) == (("bundle", "other"), ('{"steps":20}',))
    assert [shard.name for shard in manifest.shards] == sorted(names)
    assert sorted(shard.rows for shard in manifest.shards) == [2, 10, 10]
    assert manifest.num_bytes == sum((tmp_path / "shards" / name).stat().st_size for name in names)


def test_a_row_that_failed_and_was_made_later_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, IDS[:2], error=["sampler_failed"] * 2)
    write(tmp_path, IDS[1:3])
    manifest = Manifest.scan(str(tmp_path))
    assert (manifest.num_pairs, manifest.num_errors, manifest.errors_by_reason) == (2, 1, {"sampler_failed": 1})
    assert verify(str(tmp_path)) == []


def test_scan_of_an_empty_run(tmp_path: Path) -> None:
    manifest = Manifest.scan(str(tmp_path))
    assert (manifest.num_pairs, manifest.num_errors, manifest.shards, manifest.classes) == (0, 0, (), {})


def test_scan_counts_keys_that_are_there_twice(tmp_path: Path) -> None:
    first, second = write(tmp_path, IDS[:3]), write(tmp_path, IDS[2:5])
    manifest = Manifest.scan(str(tmp_path))
    assert (manifest.num_pairs, manifest.num_duplicates) == (5, 1)
    (problem,) = verify(str(tmp_path))
    assert problem.startswith(f"key {IDS[2]} is there 2 times: ")
    assert all(name in problem for name in first + second)


def test_save_and_load(tmp_path: Path) -> None:
    write(tmp_path, IDS[:12], error=[*[""] * 11, "empty_prompt"])
    manifest = Manifest.scan(str(tmp_path))
    path = tmp_path / "manifest.json"
    manifest.save(str(path))
    assert Manifest.load(str(path)) == manifest
    assert json.loads(path.read_text())["num_pairs"] == 11
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_file()) == [LABELS, "manifest.json"]


def test_a_broken_shard_stops_a_scan_and_is_found_by_verify(tmp_path: Path) -> None:
    names = write(tmp_path, IDS[:20])
    broken = tmp_path / "shards" / names[0]
    broken.write_bytes(broken.read_bytes()[:-10])
    with pytest.raises(ShardError, match=str(broken)):
        Manifest.scan(str(tmp_path))
    (problem,) = verify(str(tmp_path))
    assert str(broken) in problem


def test_verify_finds_a_shard_under_another_name(tmp_path: Path) -> None:
    (name,) = write(tmp_path, IDS[:5])
    assert verify(str(tmp_path), deep=True) == []
    (tmp_path / "shards" / name).rename(tmp_path / "shards" / "other.parquet")
    (problem,) = verify(str(tmp_path))
    assert problem.endswith("other.parquet: the name is not the hash of the keys inside")


def test_deep_verify_decodes_every_picture(tmp_path: Path) -> None:
    images = [encode_image(np.zeros((height, 6, 3), np.uint8)) for height in (4, 4, 5)]
    masks = [encode_mask(np.zeros((4, width), np.uint8)) for width in (6, 7, 6)]
    empty: dict[str, Any] = {"class_ids": [[0]] * 3, "class_pixels": [[24]] * 3}
    write(tmp_path, IDS[:3], image=images, mask=masks, **empty)
    broken = [images[0], images[0][:40], images[0]]
    write(tmp_path, IDS[3:6], image=broken, mask=[masks[0], masks[0], images[0]], **empty)
    assert verify(str(tmp_path)) == []
    problems = sorted(problem.split(", ", 1)[1] for problem in verify(str(tmp_path), deep=True))
    assert [problem.split(":")[0] for problem in problems] == [
        IDS[1],
        IDS[2],
        f"{IDS[4]}, image",
        f"{IDS[5]}, mask",
    ]
    assert "the mask is 4 x 7 pixels (height x width), the row says 4 x 6" in problems[0]
    assert "the image is 5 x 6" in problems[1]


def test_rows_without_pictures_are_found(tmp_path: Path) -> None:
    """Another tool may have written what looks like a shard."""
    (name,) = write(tmp_path, IDS[:1])
    path = tmp_path / "shards" / name
    table = conform(pq.read_table(path), PAIR)
    empty = pa.array([{"bytes": None, "path": "a.png"}], PAIR.field("image").type)
    pq.write_table(table.set_column(3, PAIR.field("image"), empty), path)
    (problem,) = verify(str(tmp_path), deep=True)
    assert "image: not a picture" in problem


def test_deep_verify_compares_masks_areas_and_ids_with_the_columns(tmp_path: Path) -> None:
    masks = [encode_mask(np.full((4, 6), value, np.uint8)) for value in (9, 1)]
    write(tmp_path, IDS[:2], mask=masks, class_ids=[[9], [0]], class_pixels=[[24], [24]])
    write(tmp_path, IDS[2:3], prompt=["a red bag"], seed=[1])
    problems = sorted(problem.split(", ", 1)[1] for problem in verify(str(tmp_path), deep=True))
    assert [problem.split(":")[0] for problem in problems] == [f"{IDS[0]}, mask", IDS[1], IDS[2]]
    assert "the mask holds 9; label space 'garments'" in problems[0]
    assert "class_ids and class_pixels are not what the mask holds" in problems[1]
    assert "the id is not the hash of prompt, seed, bundle and sampler" in problems[2]


def test_deep_verify_finds_a_flipped_bit_anywhere(tmp_path: Path) -> None:
    (name,) = write(tmp_path, IDS[:8])
    path = tmp_path / "shards" / name
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(3).data_page_offset + 60
    content[start] ^= 1
    path.write_bytes(content)
    (problem,) = verify(str(tmp_path), deep=True)
    assert str(path) in problem


def test_a_manifest_that_is_not_what_the_shards_say_is_found(tmp_path: Path) -> None:
    write(tmp_path, IDS[:4])
    Manifest.scan(str(tmp_path)).save(str(tmp_path / "manifest.json"))
    assert verify(str(tmp_path)) == []
    write(tmp_path, IDS[4:6])
    (problem,) = verify(str(tmp_path))
    assert "manifest.json: num_pairs, shards, num_bytes, classes are not what the shards say" in problem
