"""The plan of the whole way: sizes that agree, hours of each step's own workers, places that a cluster finds."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import yaml

from jobs._machine import GIB, OWN, Here, Way, fit_joint
from jobs._takes import in_turns
from jobs._ways import steps_of
from pipeline.cluster import submission
from pipeline.cluster.sink import SHARD_BYTES
from pipeline.cluster.submission import Submission

GPU = Here(1, 80 * GIB, 16, 240, "as given")
CPU = Here(0, 0, 4, 0.1, "as given")


@cache
def planned(machine: Here = GPU, *, runs: str = "runs", num_labelled: int = 300, **changes: Any) -> Way:
    """Of 2,000 pictures."""
    places = {"dataset": "folder", "root": "/shared/mine", "name": "mine", "labels": "garments", "runs": runs}
    ingests = {split: {"run": f"mine-{split}", **places} for split in ("train", "validation", "test")}
    settings = {"labels": "garments", "num_pictures": 2_000, "has_captions": False, **changes}
    return steps_of("mine", runs, ingests, machine, num_labelled=num_labelled, **settings)


def step(way: Way, file: str):
    return next(one for one in way.steps if one.file == f"{file}.yaml")


@pytest.mark.parametrize(("way", "side"), [("weights", 512), ("small", 64)])
def test_segmenters_take_pictures_of_any_size_at_the_side_of_generated_ones(way, side):
    found = planned(way=way)

    for file in ("encode-labelled", "baseline", "label", "evaluate", "annotation_vae"):
        assert step(found, file).values["size_px"] == side
    assert (step(found, "joint").values.get("image_size_px", 512)) == side


def test_so_they_do_in_the_configs_that_ship():
    for name in ("encode", "annotation_vae", "baseline", "label", "evaluate"):
        assert yaml.safe_load((OWN / f"{name}.yaml").read_text())["size_px"] == 512


@pytest.mark.parametrize("machine", [GPU, CPU])
def test_the_proof_chooses_as_the_baseline_did_and_the_labels_are_to_be_told(machine):
    found = planned(machine)
    baseline, proof = step(found, "baseline").values, step(found, "evaluate").values

    for key in ("validation", "try_steps", "try_augmentations"):
        assert proof[key] == baseline[key]
    assert "steps" not in proof and "runs/mine-baseline/proof.md" in step(found, "label").why


def test_pairs_are_not_drawn_again_where_captions_leave_classes_out():
    assert "redraws" not in step(planned(), "generate").values
    assert "redraws" not in yaml.safe_load((OWN / "generate.yaml").read_text())


def hours(way: Way, file: str) -> float:
    found = step(way, file).hours
    assert found is not None
    return found


def test_hours_are_of_the_workers_of_each_step():
    one, eight = planned(), planned(Here(8, 80 * GIB, 64, 240, "as given"))

    assert step(eight, "evaluate").values["at_once"] == 8 and "at_once" not in step(one, "evaluate").values
    assert hours(one, "evaluate") / hours(eight, "evaluate") == pytest.approx(
        in_turns([[2_000, 4_000, 8_000], [8_000] * 2, [8_000] * 12], 1)
        / in_turns([[2_000, 4_000, 8_000], [8_000] * 2, [8_000] * 12], 8)
    )
    assert hours(one, "joint") == pytest.approx(8 * hours(eight, "joint"), rel=0.01)
    assert hours(one, "label") > hours(eight, "label") > 0 and hours(one, "generate") > 0
    for file in ("caption", "encode-labels", "generate"):
        assert step(eight, file).values["workers"] == {"num": 8, "cpus": 2, "gpus": 1}


def test_trainings_side_by_side_wait_for_the_longest_and_for_what_they_build_on():
    assert in_turns([[2, 4, 8], [5] * 6], 1) == 44 and in_turns([[2, 4, 8], [5] * 6], 3) == 18
    assert in_turns([[2, 4, 8], [5] * 2], 100) == 13 and in_turns([[]], 2) == 0


def test_activations_that_are_computed_again_take_a_third_longer():
    small, large = (planned(Here(1, gib * GIB, 16, 100, "as given")) for gib in (24, 80))

    assert step(small, "joint").values["recompute_activations"]
    assert hours(small, "joint") == pytest.approx(4 / 3 * hours(large, "joint"))


def test_small_networks_on_a_gpu_wait_for_their_host():
    found = planned(way="small")

    assert hours(found, "joint") >= 400_000 / 64 * 0.1 / 3600
    assert hours(found, "baseline") >= (768 + 1_536 + 6 * 3_072) * 0.015 / 3600


@pytest.mark.parametrize(("gpus", "workers"), [(3, 2), (6, 4), (64, 32)])
def test_as_many_gpus_share_a_batch_as_can(gpus, workers):
    found = fit_joint(Here(gpus, 80 * GIB, 16, 240, "as given"))
    assert found and found["workers"]["num"] == workers


def test_every_machine_of_a_cluster_finds_what_the_configs_name(tmp_path, monkeypatch):
    runs, bundle = "s3://bucket/runs", "s3://bucket/runs/mine-bundle"
    monkeypatch.setattr(submission, "ROOT", tmp_path)
    (tmp_path / "jobs/configs").mkdir(parents=True)
    for name in ("models", "pipeline", "pyproject.toml"):
        (tmp_path / name).touch()
    found = planned(runs=runs)

    assert step(found, "joint").values["initial"] == bundle
    assert any(bundle in one.arguments for one in found.steps if one.job == "import_weights")
    for one in found.steps:
        if one.values:
            config: Any = one.kind.model_validate(one.values)
            Submission(one.job, config, [f"{tmp_path}/jobs/configs/{one.file}"], install=False).check()
    assert step(planned(), "joint").values["initial"] == "bundles/mine"


def test_disk_holds_pictures_as_they_are_stored_and_large_ones_make_smaller_shards():
    few, many = (planned(way="small", num_labelled=1_500, row_bytes=size) for size in (0.0, 23e6))

    assert many.disk_gib - few.disk_gib == pytest.approx(2 * 2_000 * 23e6 / GIB)
    assert few.disk_gib > 500 * (1 + 6 * 3) * 2 * 64**2 / GIB, "labels, in all ways that are tried with each seed"
    for file in ("ingest-train", "caption"):
        assert step(many, file).values["rows_per_shard"] == SHARD_BYTES // 23_000_000
        assert "rows_per_shard" not in step(few, file).values
