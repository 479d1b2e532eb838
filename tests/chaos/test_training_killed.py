"""Contract: whatever befalls a training, it goes on by itself or by the same command, from its newest whole checkpoint,
and ends with exactly the weights of a training that was never disturbed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.base.command_line import load
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.tasks.latents import VAEConfig
from pipeline.training.tasks.vae import train_vae
from tests.chaos.kill import descendants, finish, kill_family, start
from tests.tiny import save_pairs
from tests.zygote import PROCESS

STEPS = 600


def settings(folder: Path, num_examples: int) -> dict[str, Any]:
    """Of a training of a step for every eight examples, and its data."""
    save_pairs(folder / "train", 48)
    save_pairs(folder / "validation", 8, split="validation")
    return {
        "run": "disturbed",
        "runs": str(folder),
        "net": "annotation",
        "train": [str(folder / "train")],
        "validation": str(folder / "validation"),
        "widths": [8, 8, 8],
        "decoder_width": 8,
        "optimisation": {"num_examples": num_examples, "batch_size": 8, "precision": "float32"},
        "checkpoint_examples": 400,
        "keep_checkpoints": 3,
        "log_every_s": 1.0,
        "workers": {"threads": 1},
    }


class Story:
    """A training of some hundred steps, and what happens to it."""

    def __init__(self, folder: Path) -> None:
        self.config, self.run, self.log = folder / "vae.yaml", folder / "disturbed", folder / "log.txt"
        self.command = ("jobs.train_vae", str(self.config))
        self.config.write_text(yaml.safe_dump(settings(folder, 8 * STEPS)))
        self.process = start(*self.command, log=self.log)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, f"ended before {what}:\n{self.text()[-3000:]}"
            assert time.monotonic() < deadline, f"waited in vain for {what}:\n{self.text()[-3000:]}"
            time.sleep(0.01)

    def steps(self) -> list[int]:
        return sorted(int(one.stem[5:]) for one in (self.run / "checkpoints").glob("step_*.safetensors"))

    def wait_for_steps(self, more: int = 50) -> None:
        first = max(self.steps(), default=0)
        self.wait(lambda: max(self.steps(), default=0) >= first + more, "checkpoints")

    def worker(self) -> int:
        """Process id of the one that trains."""
        for pid in descendants(int(os.environ[PROCESS])):
            if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError("no worker runs")

    def count(self, text: str) -> int:
        return self.text().count(text)


@pytest.mark.chaos
@pytest.mark.ray
def test_nothing_that_befalls_a_training_changes_its_end(tmp_path, ray_session, capfd):
    story = Story(tmp_path)

    story.wait_for_steps()
    os.kill(story.worker(), signal.SIGKILL)
    story.wait(lambda: story.count("resuming from") == 1, "a restart by itself after SIGKILL to the worker")

    story.wait_for_steps()
    os.kill(story.worker(), signal.SIGTERM)
    story.wait(lambda: story.count("resuming from") == 2, "a restart by itself after SIGTERM to the worker")
    left_at = re.findall(r"resuming from step ([\d,]+) of", story.text())[-1]  # not a checkpoint that came since
    assert int(left_at.replace(",", "")) % 50, "the worker that had to leave saved its last step"

    story.wait_for_steps()
    kill_family(story.process)
    assert not (story.run / "scores.json").exists()
    newest = story.run / "checkpoints" / f"step_{story.steps()[-1]:08d}.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1000])

    story.process = start(*story.command, log=story.log)
    story.wait(lambda: story.count("resuming from") == 3, "the same command to go on")
    assert f"{newest.name}: broken checkpoint" in story.text()
    assert f"resuming from step {int(newest.stem[5:])} " not in story.text()

    story.wait_for_steps()
    story.process.send_signal(signal.SIGINT)
    assert story.process.wait(timeout=60) == 130, story.text()[-3000:]
    assert "run the same command again to go on" in story.text()
    stopped = story.steps()[-1]
    assert f"stopped at step {stopped} of {STEPS}" in story.text()

    config = load(VAEConfig, story.config)
    train_vae(config)  # by another driver
    assert f"resuming from step {stopped} of {STEPS}" in "".join(capfd.readouterr())
    undisturbed = config.model_copy(update={"run": "undisturbed"})
    scores = train_vae(undisturbed)
    assert json.loads((story.run / "scores.json").read_text())["miou"] == scores["miou"]
    found, expected = (load_file(one.folder / "weights" / "model.safetensors") for one in (config, undisturbed))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert subprocess.run(["ls", story.run / "checkpoints"], capture_output=True, text=True).stdout.count("step_") == 3


@pytest.mark.chaos
@pytest.mark.ray
def test_a_training_takes_in_a_machine_and_outlives_another(tmp_path, ray_session):
    path, log = tmp_path / "vae.yaml", tmp_path / "log.txt"
    two = {"workers": {"threads": 1, "num": 2}, "min_workers": 1, "strategy": "fsdp"}
    path.write_text(yaml.safe_dump({**settings(tmp_path, 10**6), **two}))
    finish("tests.chaos.training_elastic", str(path), log=log)

    text = log.read_text()
    added, removed = text.index("added a node"), text.index("removed a node")
    assert "on 2 workers" in text[added:removed], text[-3000:]
    assert "on 1 worker\n" in text[removed:], text[-3000:]
    steps = [int(step) for step in re.findall(r"resuming from step (\d+)", text)]
    assert len(steps) >= 2 and steps == sorted(steps)
    assert Checkpoints(str(tmp_path / "disturbed")).newest() > steps[-1]
