"""Train the demo's networks from nothing, prove them, and write the bundle with its card."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import Field

from jobs import command
from jobs.demo import CONFIGS
from pipeline.card import write_card
from pipeline.cluster import cluster
from pipeline.config import Config, load
from pipeline.encode import EncodeConfig, encode
from pipeline.generate import GenerateConfig, Refine, generate
from pipeline.ingest import IngestConfig, ingest
from pipeline.proof import ProofConfig, train_segmenters
from pipeline.refine import RefineConfig, refine
from pipeline.run import log, set_up_logging
from pipeline.training.joint import JointConfig, train_joint
from pipeline.training.text import TextConfig, train_text
from pipeline.training.vae import VAEConfig, train_vae


class DemoTrainConfig(Config):
    """Runs the trainings one after the other; a second start goes on where the first one stopped."""

    runs: str = "runs"
    """Folder of all runs; the demo's configurations name it too."""
    bundle: str = "bundles/garments"
    """Folder that the weights and their card are copied to."""
    proof_pairs: int = Field(2048, ge=64)
    """Pairs of the real and of each synthetic set that segmenters are trained on."""
    seeds: int = Field(3, ge=1)
    """Segmenters per set."""
    areas_px: tuple[int, ...] = (4, 8, 16)
    """Thresholds of mask optimisation that are compared with none."""


def main(config: DemoTrainConfig) -> None:
    set_up_logging()
    log.info(
        "demo-train: four trainings, a proof with %d seeds, a bundle in %s; takes hours on two cores",
        config.seeds,
        config.bundle,
    )
    with cluster():
        for split, pairs in (("train", 12_288), ("validation", 512), ("test", 1024)):
            ingest(
                load(IngestConfig, CONFIGS / "ingest.yaml", {"run": f"real-{split}", "split": split, "pairs": pairs})
            )
        train_vae(load(VAEConfig, CONFIGS / "annotation_vae.yaml"))
        train_vae(load(VAEConfig, CONFIGS / "image_vae.yaml"))
        train_text(load(TextConfig, CONFIGS / "text.yaml"))
        for split in ("train", "validation"):
            encode(
                load(
                    EncodeConfig,
                    CONFIGS / "encode.yaml",
                    {"run": f"latents-{split}", "pairs": [f"{config.runs}/real-{split}"]},
                )
            )
        train_joint(load(JointConfig, CONFIGS / "joint.yaml"))
        shutil.copytree(f"{config.runs}/joint/weights", config.bundle, dirs_exist_ok=True)
        prove(config)
    card = write_card(Path(config.bundle), Path(config.runs), Path(config.runs) / "proof" / "proof.json")
    log.info("bundle: %s, card: %s", config.bundle, card)


def prove(config: DemoTrainConfig) -> None:
    """Segmenters on real pairs, on synthetic ones with each threshold of mask optimisation, and on both."""
    runs, pairs = config.runs, config.proof_pairs
    ingest(load(IngestConfig, CONFIGS / "ingest.yaml", {"run": "real-proof", "pairs": pairs}))
    unrefined = {"min_area_px": 0, "fill_holes_px": 0}
    generate(
        load(
            GenerateConfig,
            CONFIGS / "generate.yaml",
            {
                "runs": runs,
                "prompts": f"{runs}/real-proof",
                "bundle": config.bundle,
                "pairs": pairs,
                "refine": unrefined,
            },
        )
    )
    real, synthetic = f"{runs}/real-proof", f"{runs}/synthetic"
    sets = {"real": [real], "synthetic": [synthetic]}
    for area_px in config.areas_px:
        name = f"synthetic-{area_px}px"
        refine(RefineConfig(run=name, runs=runs, pairs=synthetic, refine=Refine(min_area_px=area_px)))
        sets[f"synthetic, refined {area_px} px"] = [f"{runs}/{name}"]
    default = load(GenerateConfig, CONFIGS / "generate.yaml").refine.min_area_px
    sets["real + synthetic"] = [real, f"{runs}/synthetic-{default}px"]
    train_segmenters(
        load(
            ProofConfig,
            CONFIGS / "segmenter.yaml",
            {
                "runs": runs,
                "sets": sets,
                "test": f"{runs}/real-test",
                "test_rows": 1024,
                "judged": f"{runs}/synthetic-{default}px",
                "seeds": config.seeds,
            },
        )
    )


if __name__ == "__main__":
    command(main, DemoTrainConfig)
