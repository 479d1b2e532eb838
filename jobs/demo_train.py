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
from pipeline.generate import GenerateConfig, generate
from pipeline.ingest import IngestConfig, ingest
from pipeline.pages.bundle_card import write_card
from pipeline.refine import RefineConfig, refine
from pipeline.stages.refine import Refine
from pipeline.training.tasks.annotation_vae import score_annotation_vae
from pipeline.training.tasks.clip import ClipConfig, train_clip
from pipeline.training.tasks.joint import JointConfig, train_joint
from pipeline.training.tasks.latents import VAEConfig
from pipeline.training.tasks.vae import train_vae

RUNS = Path("runs")  # as the configurations have it


class DemoTrainConfig(Config):
    """Runs the trainings one after the other; a second start goes on where the first one stopped."""

    bundle: str = "bundles/garments"
    """Folder that the weights and their card are copied to when they are proved."""
    proof_pairs: int = Field(2048, ge=64)
    """Pairs of the real and of each synthetic set that segmenters are trained on."""
    seeds: int = Field(3, ge=1)
    """Segmenters per set."""
    areas_px: tuple[int, ...] = Field((8, 16, 32), min_length=1)
    """Thresholds of mask optimisation that are compared with none; the first but one serves the mixture."""


def main(config: DemoTrainConfig) -> None:
    set_up_logging()
    log.info("demo-train: four trainings, a proof with %d seeds, a bundle in %s", config.seeds, config.bundle)
    log.info("demo-train: this takes about three hours on two cores; stop it at any time and start it again")
    with cluster():
        for split, pairs in (("train", 12_288), ("validation", 512), ("test", 1024)):
            # The second set has more photographs to test on, and says which of them each picture shows.
            run, dataset = ("real-test2", "builtin2") if split == "test" else (f"real-{split}", "builtin")
            changes: dict[str, Any] = {"run": run, "dataset": dataset, "split": split, "pairs": pairs}
            ingest(load(IngestConfig, CONFIGS / "ingest.yaml", changes))
        train_vae(load(VAEConfig, CONFIGS / "annotation_vae.yaml"))
        score_annotation_vae(RUNS / "annotation-vae", f"{RUNS}/real-test2")
        train_vae(load(VAEConfig, CONFIGS / "image_vae.yaml"))
        train_clip(load(ClipConfig, CONFIGS / "clip.yaml"))
        for split in ("train", "validation"):
            changes = {"run": f"latents-{split}", "pairs": [f"{RUNS}/real-{split}"]}
            encode(load(EncodeConfig, CONFIGS / "encode.yaml", changes))
        train_joint(load(JointConfig, CONFIGS / "joint.yaml"))
        prove(config)
    weights, bundle = RUNS / "joint" / "weights", Path(absolute(config.bundle))
    write_card(weights, bundle.name, RUNS, RUNS / "proof" / "proof.json", (CONFIGS / "about.md").read_text())
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(weights, bundle)
    log.info("demo-train: bundle %s and its card, %s", bundle, bundle / "README.md")


def prove(config: DemoTrainConfig) -> None:
    """Segmenters on real pairs, on synthetic ones with each threshold of mask optimisation, and on both."""
    changes: dict[str, Any] = {"run": "real-proof", "pairs": config.proof_pairs}
    ingest(load(IngestConfig, CONFIGS / "ingest.yaml", changes))
    real, synthetic = f"{RUNS}/real-proof", f"{RUNS}/synthetic"
    changes = {
        "runs": str(RUNS),
        "prompts": real,
        "bundle": str(RUNS / "joint" / "weights"),
        "pairs": config.proof_pairs,
        "refine": {"min_area_px": 0},
    }
    generate(load(GenerateConfig, CONFIGS / "generate.yaml", changes))
    sets = {"real": [real], "synthetic": [synthetic]}
    for area_px in config.areas_px:
        refine(RefineConfig(run=f"synthetic-{area_px}px", pairs=synthetic, refine=Refine(min_area_px=area_px)))
        sets[f"synthetic, refined {area_px} px"] = [f"{synthetic}-{area_px}px"]
    chosen = f"{synthetic}-{config.areas_px[min(1, len(config.areas_px) - 1)]}px"
    changes = {
        "runs": str(RUNS),
        "sets": {**sets, "real + synthetic": [real, chosen]},
        "test": f"{RUNS}/real-test2",
        "test_rows": 1024,
        "judged": chosen,
        "generator_train": [f"{RUNS}/real-train"],
        "generator_labels": 0,
        "seeds": config.seeds,
        "epochs": 24,  # of four times as many pairs as in the demo; at half of it real pairs still rise
    }
    evaluate(load(EvaluateConfig, CONFIGS / "evaluate.yaml", changes))


if __name__ == "__main__":
    command(main, DemoTrainConfig)
