"""Contract: whatever dies or fills up, the same command ends with exactly the planned ids, each once, in `shards/` or
with a reason in `errors/`, and with the bytes of a run that was never disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import pipeline.generate
from models.reverse import SamplerSettings
from models.weights import ENCODERS, JOINT, digest
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.cluster.processes import Stage
from pipeline.generate import GenerateConfig, generate, make_sampler
from pipeline.stages.pack import refine_and_pack
from pipeline.stages.refine import Refine
from pipeline.tables.rows import read_ids, read_shards
from pipeline.tables.shards import FAILED, list_shards
from pipeline.verify import verify
from tests.chaos.kill import finish, first_time, sampled, start
from tests.plans import planned
from tests.tiny import save_tiny_bundle

pytestmark = [pytest.mark.chaos, pytest.mark.ray]
NUM_PAIRS = 24
PROMPTS = ("a red bag", "a blue dress", "a green boot on fur", "a red bag on fur")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("contract")
    save_tiny_bundle(folder / "bundle")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return folder


def config(place: Path, run: str, **changes) -> GenerateConfig:
    values = {
        "run": run,
        "runs": str(place / "runs"),
        "bundle": str(place / "bundle"),
        "prompts": str(place / "prompts.txt"),
        "pairs": NUM_PAIRS,
        "sampler": SamplerSettings(steps=3, guidance=2.0, batch_size=4),
        "refine": Refine(min_area_px=4),
        "rows_per_shard": 4,
        "workers": Workers(threads=1),
        "tracking_uri": f"sqlite:///{place}/mlflow.db",
    }
    return GenerateConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def undisturbed(place, ray_session):
    made = config(place, "undisturbed")
    generate(made)
    return read_shards([str(made.folder)]).sort_by("pair_id")


def assert_same(made: GenerateConfig, expected, without: str = "") -> None:
    """All rows of `expected` but those of the prompt `without` are in the run, once and with the same bytes."""
    rows = read_shards([str(made.folder)]).sort_by("pair_id")
    keep = [prompt != without for prompt in expected["prompt"].to_pylist()]
    expected = expected.filter(keep)
    for column in ("pair_id", "seed", "image", "mask", "confidence_mean"):
        assert rows[column].equals(expected[column]), column
    assert verify(str(made.folder), deep=True) == []
    found = [*read_ids(str(made.folder)).to_pylist()]
    wanted = planned(made, digest(made.bundle, ENCODERS + JOINT))["pair_id"].to_pylist()
    assert sorted(found) == sorted(wanted), "every planned id is there once, made or with a reason"


def sampler_that(act) -> Callable[..., Stage]:
    """A stage of sampler processes that runs `act(prompts)` before every batch."""

    def make(*arguments) -> Stage:
        sample = make_sampler(*arguments)

        def sabotaged(batch):
            errors = batch.get("error", [""] * len(batch["prompt"]))
            act([prompt for prompt, error in zip(batch["prompt"], errors, strict=True) if not error])
            return sample(batch)

        return sabotaged

    return make


def test_a_sampler_that_is_killed(place, undisturbed, monkeypatch, tmp_path):
    marker = tmp_path / "killed"

    def act(prompts):
        if prompts and first_time(marker):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pipeline.generate, "make_sampler", sampler_that(act))
    made = config(place, "sampler-killed")
    assert generate(made).num_errors == 0
    assert marker.exists()
    assert_same(made, undisturbed)


def test_a_cpu_worker_that_is_killed(place, undisturbed, monkeypatch, tmp_path):
    marker = tmp_path / "killed"

    def dies_once(batch, **settings):
        if first_time(marker):
            os.kill(os.getpid(), signal.SIGKILL)
        return refine_and_pack(batch, **settings)

    monkeypatch.setattr(pipeline.generate, "refine_and_pack", dies_once)
    made = config(place, "cpu-worker-killed")
    assert generate(made).num_errors == 0
    assert marker.exists()
    assert_same(made, undisturbed)


def test_a_prompt_that_kills_its_process_every_time(place, ray_session, monkeypatch):
    def make(*arguments) -> Stage:
        def dies(batch):
            errors = batch.get("error", [""] * len(batch["prompt"]))
            if any(prompt == PROMPTS[1] and not error for prompt, error in zip(batch["prompt"], errors, strict=True)):
                os._exit(1)
            return sampled(batch)

        return dies

    monkeypatch.setattr(pipeline.generate, "make_sampler", lambda *arguments: sampled)
    harmless = config(place, "harmless", workers=Workers())
    generate(harmless)
    monkeypatch.setattr(pipeline.generate, "make_sampler", make)
    made = config(place, "poison", workers=Workers())
    manifest = generate(made)
    assert manifest.errors_by_reason == {"sampler_died": NUM_PAIRS // len(PROMPTS)}
    assert_same(made, read_shards([str(harmless.folder)]).sort_by("pair_id"), without=PROMPTS[1])


def test_a_shard_that_is_cut_short_is_made_again_and_kept_aside(place, undisturbed):
    made = config(place, "truncated")
    generate(made)
    shard = Path(list_shards(str(made.folder))[1])
    shard.write_bytes(shard.read_bytes()[:-100])
    generate(made)
    assert [path.name for path in (made.folder / "broken").iterdir()] == [shard.name]
    assert_same(made, undisturbed)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which only root may")
def test_a_full_disk_stops_the_run_with_one_error_and_loses_nothing(place, undisturbed, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(runs)], capture_output=True).returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        made = config(place, "full", runs=str(runs))
        path, log = tmp_path / "generate.yaml", tmp_path / "log.txt"
        path.write_text(yaml.safe_dump(made.dump()))
        assert start("jobs.generate", str(path), log=log).wait(timeout=240) == 2
        text = log.read_text()
        assert text.count("No space left on device; free space") == 1 and "same command again" in text, text[-3000:]
        assert "Traceback" not in text and "UDF" not in text, text
        kept = list_shards(str(made.folder))
        assert 0 < len(kept) < NUM_PAIRS // 4
        assert verify(str(made.folder), deep=True) == []
        subprocess.run(["mount", "-o", "remount,size=10m", str(runs)], check=True)
        generate(made)
        assert set(kept) <= set(list_shards(str(made.folder))), "what was written is kept"
        assert_same(made, undisturbed)
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=True)


def test_a_second_driver_is_refused_and_ctrl_c_finishes_what_has_begun(place, undisturbed, tmp_path):
    made = config(place, "stopped", sampler=SamplerSettings(steps=3, guidance=2.0, batch_size=4))
    path, log = tmp_path / "generate.yaml", tmp_path / "log.txt"
    # Slow enough to be stopped half-way: 40 times the pairs.
    path.write_text(yaml.safe_dump({**made.dump(), "pairs": 40 * NUM_PAIRS}))
    process = start("jobs.generate", str(path), log=log)
    deadline = time.monotonic() + 240
    while not list_shards(str(made.folder)):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.01)
    before = time.monotonic()
    with pytest.raises(ConfigError, match=f"process {process.pid} on .* works on this run"):
        generate(made)
    assert time.monotonic() - before < 30
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130, log.read_text()[-3000:]
    text = log.read_text()
    assert "stopping: what has begun is finished" in text and "run the same command again to go on" in text
    assert "Traceback" not in text
    num_made = len(read_ids(str(made.folder)))
    assert 0 < num_made < 40 * NUM_PAIRS
    assert verify(str(made.folder), deep=True) == []
    # Going on, with fewer pairs asked for than are there, makes nothing and says so.
    assert generate(made).num_pairs == num_made


def test_a_node_that_is_lost(place, undisturbed, tmp_path):
    """In a cluster of three simulated nodes; both workers hold a sampler, one goes after the first shards."""
    made = config(place, "node-lost", workers=Workers(num=2, threads=1), pairs=NUM_PAIRS)
    path, log = tmp_path / "generate.yaml", tmp_path / "log.txt"
    path.write_text(yaml.safe_dump(made.dump()))
    finish("tests.chaos.node_lost", str(path), log=log)
    assert "removed a node" in log.read_text()
    assert list_shards(str(made.folder), FAILED) == []
    assert_same(made, undisturbed)
