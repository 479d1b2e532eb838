"""Contract: whenever generation is killed, the same command ends with exactly the planned pairs, each once, with the
bytes of a run that was never disturbed, and leaves no half-written file among the shards."""

from __future__ import annotations

import pytest
import yaml

from models.weights import ENCODERS, JOINT, digest
from pipeline.base.command_line import load
from pipeline.generate import GenerateConfig, generate
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import list_shards
from pipeline.verify import verify
from tests.chaos.kill import kill_when
from tests.plans import planned
from tests.tiny import save_tiny_bundle

NUM_PAIRS = 40


@pytest.mark.chaos
@pytest.mark.ray
def test_sigkill_before_the_first_shard_between_shards_and_inside_a_write(tmp_path, ray_session):
    save_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "prompts.txt").write_text("a red bag\na blue dress\na green boot on fur\n")
    path = tmp_path / "generate.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "run": "killed",
                "runs": str(tmp_path / "runs"),
                "bundle": str(tmp_path / "bundle"),
                "prompts": str(tmp_path / "prompts.txt"),
                "pairs": NUM_PAIRS,
                "sampler": {"steps": 40, "guidance": 2.0, "batch_size": 4},
                "refine": {"min_area_px": 4},
                "rows_per_shard": 4,
                "workers": {"threads": 1},
            }
        )
    )
    folder, log = tmp_path / "runs" / "killed", tmp_path / "log.txt"
    command = ("jobs.generate", str(path))

    kill_when((folder / "config.yaml").exists, *command, log=log)
    assert list_shards(str(folder)) == []
    kill_when((tmp_path / "stuck").exists, "tests.chaos.stuck_in_write", str(path), log=log)
    assert list(folder.glob("shards/.*.draft")) and list_shards(str(folder)) == [], "a draft is no shard"
    kill_when(lambda: len(list_shards(str(folder))) >= 2, *command, log=log)
    assert 2 <= len(list_shards(str(folder))) < NUM_PAIRS // 4
    assert verify(str(folder), deep=True) == [], "every shard that is there is whole"

    config = load(GenerateConfig, path)
    generate(config)  # by another driver
    assert not list(folder.glob("shards/.*"))
    assert verify(str(folder), deep=True) == []
    wanted = planned(config, digest(config.bundle, ENCODERS + JOINT))
    rows = read_shards([str(folder)]).sort_by("pair_id")
    assert sorted(wanted["pair_id"].to_pylist()) == rows["pair_id"].to_pylist()

    undisturbed = config.model_copy(update={"run": "undisturbed"})
    assert generate(undisturbed).num_pairs == Manifest.scan(str(folder)).num_pairs == NUM_PAIRS
    expected = read_shards([str(undisturbed.folder)]).sort_by("pair_id")
    for column in ("pair_id", "seed", "image", "mask", "confidence_mean"):
        assert rows[column].equals(expected[column]), column
