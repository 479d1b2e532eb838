"""Trainings through Ray: what stops them, and what is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch

from models.labels import GARMENTS
from models.weights import WeightsError
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.runs.run import Run
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.config import TrainingConfig
from pipeline.training.feed import Feed
from pipeline.training.fit import WEIGHTS_FOLDER, _mistake, fit
from pipeline.training.loop import TrainingError
from pipeline.training.optimisation import Optimisation
from pipeline.training.tasks.latents import VAEConfig
from pipeline.training.tasks.segmenter import SegmenterTask
from pipeline.training.tasks.vae import train_vae
from tests.tiny import save_pairs


def recipe(**changes) -> Optimisation:
    return Optimisation(**{"num_examples": 64, "batch_size": 16, "learning_rate": 1e-3, **changes})


@pytest.mark.parametrize("mistake", [ConfigError("a key"), WeightsError("do not fit")])
def test_a_mistake_that_one_of_several_workers_meets_is_no_loss_of_workers(mistake):
    failed: Any = ray.train.WorkerGroupError  # typed as of Ray's earlier trainer
    assert _mistake(failed("one of two", {1: SimpleNamespace(_base_exc=mistake)})) is mistake
    assert _mistake(failed("one of two", {0: OSError("gone")})) is None


@pytest.mark.ray
def test_a_training_that_diverges_says_so_and_keeps_its_last_checkpoint(tmp_path, ray_session):
    for split in ("train", "validation"):
        save_pairs(tmp_path / split, 32, split=split)
    config = VAEConfig(
        run="diverges",
        runs=str(tmp_path),
        net="image",
        train=(str(tmp_path / "train"),),
        validation=str(tmp_path / "validation"),
        widths=(8, 8),
        optimisation=recipe(num_examples=6400, learning_rate=1e18, precision="float32"),
        checkpoint_examples=16,
    )
    with pytest.raises(TrainingError, match="not finite; this step changed nothing"):
        train_vae(config)
    assert list((tmp_path / "diverges" / "checkpoints").glob("step_*.safetensors"))
    assert not (tmp_path / "diverges" / "weights").exists()


@pytest.mark.ray
def test_what_is_judged_and_kept_is_the_average_of_the_weights(tmp_path, ray_session, capsys):
    pairs = str(save_pairs(tmp_path / "pairs", 16))
    config = TrainingConfig(
        run="averaged",
        runs=str(tmp_path),
        train=(pairs, pairs),
        slices=("0:4", "4:"),
        shares=(3, 1),
        validation=pairs,
        optimisation=recipe(learning_rate=0.05, precision="float32", ema_decay=0.9),
    )
    task = SegmenterTask(GARMENTS, "unet_small", 4)
    with Run.open(config, "segmenter") as run:
        scores = fit(task, config, run)
    told = "".join(capsys.readouterr())
    assert "of these 48 (12.0 epochs of 4) of" in told and "of these 16 (1.3 epochs of 12) of" in told
    with Checkpoints(str(config.folder)).open(4) as (tensors, _):
        saved = {name: tensors[name] for name in tensors}
    net = task.load(config.folder / WEIGHTS_FOLDER)
    for name, value in net.named_parameters():
        assert torch.equal(value, saved[f"average.{name}"]), name
    assert any(not torch.equal(value, saved[f"net.{name}"]) for name, value in net.named_parameters())
    with torch.no_grad():
        again = task.evaluate(net, Feed((pairs,), task.columns, task.decode).head(16)).metrics
    assert again["miou"] == pytest.approx(scores["miou"], abs=1e-6)


@pytest.mark.ray
def test_workers_that_cannot_fit_are_refused_instead_of_waiting_for_ever(tmp_path, ray_session):
    save_pairs(tmp_path / "train", 32)
    config = VAEConfig(
        run="large",
        runs=str(tmp_path),
        net="image",
        train=(str(tmp_path / "train"),),
        validation=str(tmp_path / "train"),
        optimisation=recipe(),
        workers=Workers(num=5),
    )
    with pytest.raises(ConfigError, match="5 workers with 1 CPUs"):
        train_vae(config)


@pytest.mark.parametrize("workers", [Workers(num=2, gpus=0.5), Workers(gpus=2)])
def test_a_worker_takes_one_whole_gpu(tmp_path, workers):
    folder = str(save_pairs(tmp_path / "train", 4))
    config = VAEConfig(
        run="shares",
        runs=str(tmp_path),
        net="image",
        train=(folder,),
        validation=folder,
        optimisation=recipe(),
        workers=workers,
    )
    with pytest.raises(ConfigError, match="a worker trains on one GPU, and several cannot share one"):
        train_vae(config)


def test_a_run_of_an_earlier_release_is_refused_instead_of_begun_anew(tmp_path):
    config = VAEConfig(
        run="old",
        runs=str(tmp_path),
        net="image",
        train=(str(save_pairs(tmp_path / "train", 4)),),
        validation=str(tmp_path / "train"),
        optimisation=recipe(),
    )
    left = tmp_path / "old" / "train" / "checkpoint_manager_snapshot.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    with pytest.raises(ConfigError, match="begun by an earlier release.*another --run"):
        train_vae(config)
    assert left.exists()
