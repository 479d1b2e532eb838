"""Contract: a training that is killed goes on from its last checkpoint by the same command, and ends with exactly the
weights of a training that was never disturbed."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.config import load
from pipeline.training.vae import VAEConfig, train_vae
from tests.chaos.kill import finish, kill_when
from tests.tiny import save_pairs


@pytest.mark.chaos
@pytest.mark.ray
def test_sigkill_behind_a_checkpoint(tmp_path, ray_session):
    save_pairs(tmp_path / "runs" / "train", 48)
    save_pairs(tmp_path / "runs" / "validation", 8, split="validation")
    path = tmp_path / "vae.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "run": "killed",
                "runs": str(tmp_path / "runs"),
                "net": "annotation",
                "train": [str(tmp_path / "runs" / "train")],
                "validation": str(tmp_path / "runs" / "validation"),
                "widths": [8, 8, 8],
                "decoder_width": 8,
                "optimisation": {"num_examples": 2400, "batch_size": 8, "precision": "float32"},
                "checkpoint_examples": 400,
                "workers": {"threads": 1},
            }
        )
    )
    folder, log = tmp_path / "runs" / "killed", tmp_path / "log.txt"
    command = ("jobs.train_vae", str(path))

    kept = folder / "train" / "checkpoint_manager_snapshot.json"
    kill_when(lambda: kept.exists() and "step_" in kept.read_text(), *command, log=log)
    assert not (folder / "scores.json").exists()
    finish(*command, log=log)

    text = log.read_text(errors="replace")
    assert "goes on from" in text, "the second start must not begin anew"
    config = load(VAEConfig, path)
    undisturbed = config.model_copy(update={"run": "undisturbed"})
    scores = train_vae(undisturbed)
    assert json.loads((folder / "scores.json").read_text())["miou"] == scores["miou"]
    found, expected = (load_file(one.folder / "weights" / "model.safetensors") for one in (config, undisturbed))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
