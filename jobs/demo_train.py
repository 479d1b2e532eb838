"""Train the demo's networks from nothing, prove them, and write the bundle with its card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from jobs import command
from jobs.demo import CONFIGS
from pipeline.base.command_line import load
from pipeline.base.config import Config
from pipeline.base.log import log, set_up_logging
from pipeline.base.places import absolute
from pipeline.cluster.connection import cluster
from pipeline.encode import EncodeConfig, encode
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.evaluation.results import FILE
from pipeline.generate import GenerateConfig, generate
from pipeline.ingest import IngestConfig, ingest
from pipeline.label import LabelConfig, label
from pipeline.pages.bundle_card import write_card
from pipeline.training.tasks.annotation_vae import score_annotation_vae
from pipeline.training.tasks.clip import ClipConfig, train_clip
from pipeline.training.tasks.joint import JointConfig, train_joint
from pipeline.training.tasks.latents import VAEConfig
from pipeline.training.tasks.vae import train_vae

RUNS = Path("runs/garments")  # as the configurations have it


class DemoTrainConfig(Config):
    """Runs the trainings one after the other; a second start goes on where the first one stopped."""

    bundle: str = "bundles/garments"
    """Folder that the weights and their card are copied to when they are proved."""
    pairs: int = Field(4096, ge=64)
    """Pairs to generate for the proof."""
    seeds: int = Field(3, ge=1)
    """Segmenters per set."""


def main(config: DemoTrainConfig) -> None:
    set_up_logging()
    log.info(
        "demo-train: five trainings and a teacher, a proof with %d seeds, a bundle in %s", config.seeds, config.bundle
    )
    log.info("demo-train: this takes about twelve hours on two cores; stop it at any time and start it again")
    with cluster():
        _read_pictures()
        train_vae(load(VAEConfig, CONFIGS / "image_vae.yaml"))
        train_vae(load(VAEConfig, CONFIGS / "image_decoder.yaml"))
        train_clip(load(ClipConfig, CONFIGS / "clip.yaml"))
        label(load(LabelConfig, CONFIGS / "label.yaml"))
        train_vae(load(VAEConfig, CONFIGS / "annotation_vae.yaml"))
        score_annotation_vae(RUNS / "annotation-vae", f"{RUNS}/test")
        _encode()
        train_joint(load(JointConfig, CONFIGS / "joint.yaml"))
        weights, bundle = RUNS / "joint" / "weights", Path(absolute(config.bundle))
        generate(load(GenerateConfig, CONFIGS / "generate.yaml", {"bundle": str(weights), "pairs": config.pairs}))
        evaluate(load(EvaluateConfig, CONFIGS / "few_labels.yaml", {"seeds": config.seeds}))
    proof = RUNS / "few-labels" / FILE
    write_card(weights, bundle.name, RUNS, proof, (CONFIGS / "about.md").read_text())
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(weights, bundle)
    shutil.copy(proof, bundle)
    log.info("demo-train: bundle %s and its card, %s", bundle, bundle / "README.md")


def _read_pictures() -> None:
    """The pictures without masks, the same with masks, of which 512 alone are looked at, and what is held out."""
    wanted: tuple[dict[str, Any], ...] = (
        {"run": "pictures", "labelled": "none"},
        {"run": "train"},
        {"run": "validation", "split": "validation", "pairs": 1024},
        {"run": "test", "split": "test", "pairs": 1024},
    )
    for changes in wanted:
        ingest(load(IngestConfig, CONFIGS / "ingest.yaml", changes))


def _encode() -> None:
    """Latents of the labelled pairs, of those that the teacher labelled, and of the validation pairs."""
    wanted: tuple[dict[str, Any], ...] = (
        {"run": "latents-labelled", "pairs": [f"{RUNS}/train"], "slices": ["0:512"]},
        {"run": "latents-labels", "pairs": [f"{RUNS}/labels"]},
        {"run": "latents-validation", "pairs": [f"{RUNS}/validation"], "flip": False},
    )
    for changes in wanted:
        encode(load(EncodeConfig, CONFIGS / "encode.yaml", changes))


if __name__ == "__main__":
    command(main, DemoTrainConfig)
