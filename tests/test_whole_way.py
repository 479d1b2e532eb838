"""The whole way in miniature, through Ray: pairs in, four trainings, pairs out, segmenters, a page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.diffusion import Diffusion
from models.jodiffusion import JoDiffusionConfig
from models.sampler import SamplerSettings
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
from pipeline.training.text import TextConfig, train_text
from pipeline.training.vae import VAEConfig, train_vae

SPLITS: tuple[Any, ...] = ("train", "validation")


def recipe(**changes) -> Optimisation:
    return Optimisation(**{"num_examples": 64, "batch_size": 16, "learning_rate": 1e-3, **changes})


@pytest.mark.ray
@pytest.mark.slow
def test_pairs_in_pairs_out(tmp_path, ray_session):
    runs = str(tmp_path)
    place: dict[str, Any] = {
        "runs": runs,
        "train": (f"{runs}/train",),
        "validation": f"{runs}/validation",
        "validation_rows": 16,
    }
    splits: tuple[Any, ...] = (("train", 96), ("validation", 16), ("test", 12), ("test", 16))  # the last adds four
    for split, pairs in splits:
        config = IngestConfig(run=split, runs=runs, split=split, pairs=pairs, size_px=32, rows_per_shard=24)
        assert ingest(config).num_pairs == pairs

    # Two workers that stream, so that sharing of data and gradients is exercised; the others cache on one.
    scores = train_vae(
        VAEConfig(
            run="annotation-vae",
            net="annotation",
            widths=(8, 8, 8),
            decoder_width=8,
            optimisation=recipe(),
            workers=Workers(num=2, cpus=0.5, threads=1),
            cache=False,
            **place,
        )
    )
    assert 0 <= scores["miou"] <= 1
    train_vae(VAEConfig(run="image-vae", net="image", widths=(8, 8, 8), optimisation=recipe(), **place))
    train_text(
        TextConfig(run="text", width=16, image_width=32, image_size_px=32, projection=8, optimisation=recipe(), **place)
    )
    encoders = EncoderFolders(
        text=f"{runs}/text/weights",
        image_vae=f"{runs}/image-vae/weights",
        annotation_vae=f"{runs}/annotation-vae/weights",
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
        num_text_tokens=24,
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
    with pytest.raises(ConfigError, match="image_latent is"):
        train_joint(joint.model_copy(update={"net": JoDiffusionConfig(), "run": "wrong"}))
    assert {"loss", "image", "mask", "clip_image"} <= set(train_joint(joint))
    assert Bundle.load(f"{runs}/joint/weights").net.config == net

    made = generate(
        GenerateConfig(
            run="synthetic",
            runs=runs,
            bundle=f"{runs}/joint/weights",
            prompts=f"{runs}/train",
            pairs=40,
            sampler=SamplerSettings(steps=2, guidance=1.5, batch_size=8),
            refine=Refine(min_area_px=2),
            rows_per_shard=16,
        )
    )
    assert made.num_pairs == 40

    proof = train_segmenters(
        ProofConfig(
            run="proof",
            runs=runs,
            sets={"real": (f"{runs}/train",), "both": (f"{runs}/train", f"{runs}/synthetic")},
            test=f"{runs}/test",
            test_rows=16,
            judged=f"{runs}/synthetic",
            epochs=1,
            width=4,
        )
    )
    assert [(one["name"], one["pairs"]) for one in proof["sets"]] == [("real", 96), ("both", 136)]
    assert 0 <= proof["prompt_match"][f"{runs}/synthetic"] <= 1
    assert json.loads((tmp_path / "proof" / "proof.json").read_text()) == proof

    page = report(
        ReportConfig(run="report", runs=runs, pairs=f"{runs}/synthetic", real=f"{runs}/train", proof=f"{runs}/proof")
    )
    assert "data:image/png;base64" in page.read_text()


@pytest.mark.ray
def test_a_training_that_diverges_says_so_and_keeps_its_last_checkpoint(tmp_path, ray_session):
    runs = str(tmp_path)
    for split in SPLITS:
        ingest(IngestConfig(run=split, runs=runs, split=split, pairs=32, size_px=32))
    config = VAEConfig(
        run="diverges",
        runs=runs,
        net="image",
        train=(f"{runs}/train",),
        validation=f"{runs}/validation",
        widths=(8, 8),
        optimisation=recipe(num_examples=6400, learning_rate=1e18, precision="float32"),
        checkpoint_examples=16,
    )
    with pytest.raises(TrainingError, match="not finite; this step changed nothing"):
        train_vae(config)
    kept = list((tmp_path / "diverges" / "train").glob("step_*/state.pt"))
    assert kept
    assert not (tmp_path / "diverges" / "weights").exists()
