"""The manifest says what is in the shards, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.base.errors import ShardError
from pipeline.tables.label_space import LABELS
from pipeline.tables.manifest import ClassShare, Manifest
from pipeline.verify import verify
from tests.pipeline.tables.fabricated import NUMBERED, write_run


def test_scan_counts_what_is_there(tmp_path: Path) -> None:
    names = write_run(tmp_path, NUMBERED[:20])
    names += write_run(tmp_path, NUMBERED[20:22], class_ids=[[3], []], class_pixels=[[24], []], bundle=["other", None])
    write_run(tmp_path, NUMBERED[22:25], error=["empty_prompt", "sampler_failed", "empty_prompt"])
    manifest = Manifest.scan(str(tmp_path))
    assert (manifest.num_pairs, manifest.num_duplicates, manifest.num_errors) == (22, 0, 3)
    assert manifest.errors_by_reason == {"empty_prompt": 2, "sampler_failed": 1}
    assert manifest.classes == {0: ClassShare(400, 20), 1: ClassShare(80, 20), 3: ClassShare(24, 1)}
    assert (manifest.bundles, manifest.samplers) == (("bundle", "other"), ('{"steps":20}',))
    assert [shard.name for shard in manifest.shards] == sorted(names)
    assert sorted(shard.rows for shard in manifest.shards) == [2, 10, 10]
    assert manifest.num_bytes == sum((tmp_path / "shards" / name).stat().st_size for name in names)


def test_a_row_that_failed_and_was_made_later_is_no_error(tmp_path: Path) -> None:
    write_run(tmp_path, NUMBERED[:2], error=["sampler_failed"] * 2)
    write_run(tmp_path, NUMBERED[1:3])
    manifest = Manifest.scan(str(tmp_path))
    assert (manifest.num_pairs, manifest.num_errors, manifest.errors_by_reason) == (2, 1, {"sampler_failed": 1})
    assert verify(str(tmp_path)) == []


def test_scan_of_an_empty_run(tmp_path: Path) -> None:
    manifest = Manifest.scan(str(tmp_path))
    assert (manifest.num_pairs, manifest.num_errors, manifest.shards, manifest.classes) == (0, 0, (), {})


def test_scan_counts_keys_that_are_there_twice(tmp_path: Path) -> None:
    first, second = write_run(tmp_path, NUMBERED[:3]), write_run(tmp_path, NUMBERED[2:5])
    manifest = Manifest.scan(str(tmp_path))
    assert (manifest.num_pairs, manifest.num_duplicates) == (5, 1)
    (problem,) = verify(str(tmp_path))
    assert problem.startswith(f"key {NUMBERED[2]} is there 2 times: ")
    assert all(name in problem for name in first + second)


def test_save_and_load(tmp_path: Path) -> None:
    write_run(tmp_path, NUMBERED[:12], error=[*[""] * 11, "empty_prompt"])
    manifest = Manifest.scan(str(tmp_path))
    path = tmp_path / "manifest.json"
    manifest.save(str(path))
    assert Manifest.load(str(path)) == manifest
    assert json.loads(path.read_text())["num_pairs"] == 11
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_file()) == [LABELS, "manifest.json"]


def test_a_broken_shard_stops_a_scan_and_is_found_by_verify(tmp_path: Path) -> None:
    names = write_run(tmp_path, NUMBERED[:20])
    broken = tmp_path / "shards" / names[0]
    broken.write_bytes(broken.read_bytes()[:-10])
    with pytest.raises(ShardError, match=str(broken)):
        Manifest.scan(str(tmp_path))
    (problem,) = verify(str(tmp_path))
    assert str(broken) in problem
