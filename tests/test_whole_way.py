"""The whole way in miniature, through Ray: pairs in, trainings, pairs out, a segmenter, a page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.diffusion import Diffusion
from models.jodiffusion import JoDiffusionConfig
from models.reverse import SamplerSettings
from models.weights import Bundle
from pipeline.config import Workers
from pipeline.encode import EncodeConfig, EncoderFolders, encode
from pipeline.errors import ConfigError
from pipeline.generate import GenerateConfig, Refine, generate
from pipeline.ingest import IngestConfig, ingest
from pipeline.proof import ProofConfig, train_segmenters
from pipeline.report import ReportConfig, report
from pipeline.shards import read_ids
from pipeline.training.joint import JointConfig, train_joint
from pipeline.training.loop import Optimisation, TrainingError
from pipeline.training.vae import VAEConfig, train_vae
from tests.tiny import NUM_TOKENS, save_pairs, tiny_encoders

SPLITS: tuple[Any, ...] = ("train", "validation")


def recipe(**changes) -> Optimisation:
    return Optimisation(**{"num_examples": 64, "batch_size": 16, "learning_rate": 1e-3, **changes})


@pytest.mark.ray
@pytest.mark.slow
def test_pairs_in_pairs_out(tmp_path, ray_session):
    runs = str(tmp_path)
    for pairs in (60, 96):  # the second start adds the difference
        config = IngestConfig(run="train", runs=runs, pairs=pairs, size_px=32, rows_per_shard=24)
        assert ingest(config).num_pairs == pairs
    for split in ("validation", "test"):
        save_pairs(tmp_path / split, 16, split=split)

    # Two workers that stream, so that sharing of data and gradients is exercised; the joint net caches on one.
    scores = train_vae(
        VAEConfig(
            run="annotation-vae",
            runs=runs,
            train=(f"{runs}/train",),
            validation=f"{runs}/validation",
            validation_rows=16,
            net="annotation",
            widths=(8, 8, 8),
            decoder_width=8,
            optimisation=recipe(),
            workers=Workers(num=2, cpus=0.5, threads=1),
            cache=False,
        )
    )
    assert 0 <= scores["miou"] <= 1

    tiny_encoders().save(tmp_path / "encoders")
    encoders = EncoderFolders(
        text=f"{runs}/encoders", image_vae=f"{runs}/encoders/image_vae", annotation_vae=f"{runs}/annotation-vae/weights"
    )
    for split in SPLITS:
        latents = EncodeConfig(
            run=f"latents-{split}", runs=runs, pairs=(f"{runs}/{split}",), encoders=encoders, flip=split == "train"
        )
        encode(latents)
    encode(latents)
    assert len(set(read_ids(f"{runs}/latents-train", "latent_id").to_pylist())) == 2 * 96

    net = JoDiffusionConfig(
        latent_size=8,
        num_heads=2,
        head_width=16,
        num_layers=2,
        num_text_tokens=NUM_TOKENS,
        text_width=16,
        text_bottleneck=16,
        clip_image_width=8,
        pre_norm=True,
        shared_positions=True,
    )
    joint = JointConfig(
        run="joint",
        runs=runs,
        train=(f"{runs}/latents-train",),
        validation=f"{runs}/latents-validation",
        image_size_px=32,
        net=net,
        diffusion=Diffusion(objective="flow", text_noise="dropout"),
        preview_prompts=("a red bag",),
        preview=SamplerSettings(steps=2, guidance=1.0, batch_size=2),
        optimisation=recipe(optimizer="muon", accumulation=2),
    )
    with pytest.raises(ConfigError, match="image_latent is"):  # and the mistake does not spoil the run's name
        train_joint(joint.model_copy(update={"net": JoDiffusionConfig()}))
    assert {"loss", "image", "mask", "clip_image"} <= set(train_joint(joint))
    assert Bundle.load(f"{runs}/joint/weights").net.config == net

    (tmp_path / "prompts.txt").write_text("a red bag\na green boot\na blue dress\n")
    made = generate(
        GenerateConfig(
            run="synthetic",
            runs=runs,
            bundle=f"{runs}/joint/weights",
            prompts=f"{runs}/prompts.txt",
            pairs=24,
            sampler=SamplerSettings(steps=2, guidance=1.5, batch_size=8),
            refine=Refine(min_area_px=2),
            rows_per_shard=16,
        )
    )
    assert (made.num_pairs, made.num_errors) == (24, 0)

    proof = train_segmenters(
        ProofConfig(
            run="proof",
            runs=runs,
            sets={"real + synthetic, mixed": (f"{runs}/train", f"{runs}/synthetic")},
            test=f"{runs}/test",
            test_rows=16,
            judged=f"{runs}/synthetic",
            epochs=1,
            width=4,
        )
    )
    assert [one["pairs"] for one in proof["sets"]] == [120]
    assert 0 <= proof["prompt_match"][f"{runs}/synthetic"] <= 1
    assert json.loads((tmp_path / "proof" / "proof.json").read_text()) == proof

    page = report(
        ReportConfig(run="report", runs=runs, pairs=f"{runs}/synthetic", real=f"{runs}/train", proof=f"{runs}/proof")
    )
    assert "data:image/png;base64" in page.read_text()


@pytest.mark.ray
def test_a_training_that_diverges_says_so_and_keeps_its_last_checkpoint(tmp_path, ray_session):
    for split in SPLITS:
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
    assert list((tmp_path / "diverges" / "train").glob("step_*/state.pt"))
    assert not (tmp_path / "diverges" / "weights").exists()


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
        workers=Workers(num=4),
    )
    with pytest.raises(ConfigError, match="4 workers with 1 CPUs"):
        train_vae(config)
