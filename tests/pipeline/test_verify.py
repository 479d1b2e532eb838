"""`verify` finds damage, row by row, and nothing in a sound run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables.conform import conform
from pipeline.tables.manifest import Manifest
from pipeline.tables.schema import PAIR
from pipeline.verify import verify
from tests.pipeline.tables.fabricated import NUMBERED, write_run


def test_verify_finds_a_shard_under_another_name(tmp_path: Path) -> None:
    (name,) = write_run(tmp_path, NUMBERED[:5])
    assert verify(str(tmp_path), deep=True) == []
    (tmp_path / "shards" / name).rename(tmp_path / "shards" / "other.parquet")
    (problem,) = verify(str(tmp_path))
    assert problem.endswith("other.parquet: the name is not the hash of the keys inside")


def test_deep_verify_decodes_every_picture(tmp_path: Path) -> None:
    images = [encode_image(np.zeros((height, 6, 3), np.uint8)) for height in (4, 4, 5)]
    masks = [encode_mask(np.zeros((4, width), np.uint8)) for width in (6, 7, 6)]
    empty: dict[str, Any] = {"class_ids": [[0]] * 3, "class_pixels": [[24]] * 3}
    write_run(tmp_path, NUMBERED[:3], image=images, mask=masks, **empty)
    broken = [images[0], images[0][:40], images[0]]
    write_run(tmp_path, NUMBERED[3:6], image=broken, mask=[masks[0], masks[0], images[0]], **empty)
    assert verify(str(tmp_path)) == []
    problems = sorted(problem.split(", ", 1)[1] for problem in verify(str(tmp_path), deep=True))
    assert [problem.split(":")[0] for problem in problems] == [
        f"{NUMBERED[1]}, mask",
        f"{NUMBERED[2]}, mask",
        f"{NUMBERED[4]}, image",
        f"{NUMBERED[5]}, mask",
    ]
    assert "4 x 7 pixels (height x width), but its image has 4 x 6" in problems[0]
    assert "but its image has 5 x 6" in problems[1]


def test_deep_verify_decodes_confidence_maps(tmp_path: Path) -> None:
    maps = [encode_mask(np.zeros(shape, np.uint8)) for shape in ((4, 6), (3, 5))]
    write_run(tmp_path, NUMBERED[:3], confidence=[*maps, maps[0][:20]])
    assert verify(str(tmp_path)) == []
    problems = sorted(problem.split(", ", 1)[1] for problem in verify(str(tmp_path), deep=True))
    assert [problem.split(":")[0] for problem in problems] == [f"{one}, confidence" for one in NUMBERED[1:3]]


def test_deep_verify_compares_sizes_with_the_columns(tmp_path: Path) -> None:
    write_run(tmp_path, NUMBERED[:2], height=[4, 5])
    assert verify(str(tmp_path)) == []
    (problem,) = verify(str(tmp_path), deep=True)
    assert f"{NUMBERED[1]}: image and mask have 4 x 6 pixels (height x width), the row says 5 x 6" in problem


def test_rows_without_pictures_are_found(tmp_path: Path) -> None:
    """Another tool may have written what looks like a shard."""
    (name,) = write_run(tmp_path, NUMBERED[:1])
    path = tmp_path / "shards" / name
    table = conform(pq.read_table(path), PAIR)
    empty = pa.array([{"bytes": None, "path": "a.png"}], PAIR.field("image").type)
    pq.write_table(table.set_column(3, PAIR.field("image"), empty), path)
    (problem,) = verify(str(tmp_path), deep=True)
    assert "image: not a picture" in problem


def test_deep_verify_compares_masks_areas_and_ids_with_the_columns(tmp_path: Path) -> None:
    masks = [encode_mask(np.full((4, 6), value, np.uint8)) for value in (9, 1)]
    write_run(tmp_path, NUMBERED[:2], mask=masks, class_ids=[[9], [0]], class_pixels=[[24], [24]])
    write_run(tmp_path, NUMBERED[2:3], prompt=["a red bag"], seed=[1])
    problems = sorted(problem.split(", ", 1)[1] for problem in verify(str(tmp_path), deep=True))
    assert [problem.split(":")[0] for problem in problems] == [f"{NUMBERED[0]}, mask", NUMBERED[1], NUMBERED[2]]
    assert "the mask holds 9; label space 'garments'" in problems[0]
    assert "class_ids and class_pixels are not what the mask holds" in problems[1]
    assert "the id is not the hash of prompt, seed, bundle and sampler" in problems[2]


def test_deep_verify_finds_a_flipped_bit_anywhere(tmp_path: Path) -> None:
    (name,) = write_run(tmp_path, NUMBERED[:8])
    path = tmp_path / "shards" / name
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(3).data_page_offset + 60
    content[start] ^= 1
    path.write_bytes(content)
    (problem,) = verify(str(tmp_path), deep=True)
    assert str(path) in problem


def test_a_manifest_that_is_not_what_the_shards_say_is_found(tmp_path: Path) -> None:
    write_run(tmp_path, NUMBERED[:4])
    Manifest.scan(str(tmp_path)).save(str(tmp_path / "manifest.json"))
    assert verify(str(tmp_path)) == []
    write_run(tmp_path, NUMBERED[4:6])
    (problem,) = verify(str(tmp_path))
    assert "manifest.json: num_pairs, shards, num_bytes, classes are not what the shards say" in problem


def test_pictures_without_masks_are_sound_where_they_are_real(tmp_path: Path) -> None:
    bare: dict[str, Any] = {"mask": [b""] * 2, "class_ids": [[]] * 2, "class_pixels": [[]] * 2}
    write_run(tmp_path, NUMBERED[:2], origin=["real"] * 2, **bare)
    assert verify(str(tmp_path), deep=True) == []
    write_run(tmp_path, NUMBERED[2:4], origin=["synthetic", "real"], **bare | {"class_ids": [[], [0]]})
    problems = verify(str(tmp_path), deep=True)
    assert ["there is no mask, though the row is synthetic" in one for one in problems] == [True, False]
    assert "there is no mask, though the row is real with classes [0]" in problems[1]
