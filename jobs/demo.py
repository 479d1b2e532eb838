"""The whole way on the built-in data: real pairs, generated pairs, the proof, and a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from jobs import command
from pipeline.base.command_line import load
from pipeline.base.config import Config
from pipeline.base.log import log, set_up_logging
from pipeline.base.places import Folder
from pipeline.cluster.connection import cluster
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.generate import GenerateConfig, generate
from pipeline.ingest import IngestConfig, ingest
from pipeline.report import ReportConfig, report

CONFIGS = Path(__file__).parent / "configs" / "demo"


class DemoConfig(Config):
    """Runs the demo's jobs one after the other; a second start goes on where the first one stopped."""

    runs: str = "runs/demo"
    """Folder of the demo's runs."""
    bundle: Folder = "bundles/garments"
    """Weights to generate with."""
    pictures: int = Field(12_288, ge=64)
    """Pictures with captions. The bundle that ships learned from these 12,288, and from the masks of 512."""
    labelled: int = Field(512, ge=8)
    """How many of them lend their masks; of the others four times as many are labelled by a teacher."""
    pairs: int = Field(512, ge=32)
    """Pairs to generate."""
    test_pairs: int = Field(512, ge=32)
    """Real held-out pairs that segmenters are tested on."""


def main(config: DemoConfig) -> None:
    set_up_logging()
    runs, train, synthetic = config.runs, f"{config.runs}/train", f"{config.runs}/synthetic"
    log.info(
        "demo: %d labelled pictures in, %d more labelled by what these teach, %d pairs generated, four segmenters at "
        "equal steps, a page",
        config.labelled,
        4 * config.labelled,
        config.pairs,
    )
    with cluster():
        for split, pairs in (("train", config.pictures), ("test", config.test_pairs)):
            changes: dict[str, Any] = {"runs": runs, "run": split, "split": split, "pairs": pairs}
            ingest(load(IngestConfig, CONFIGS / "ingest.yaml", changes))
        changes = {"runs": runs, "bundle": config.bundle, "prompts": train, "pairs": config.pairs}
        generate(load(GenerateConfig, CONFIGS / "generate.yaml", changes))
        changes = {
            "runs": runs,
            "sets": _sets(train, synthetic, config.labelled),
            "test": f"{runs}/test",
            "test_rows": config.test_pairs,
            "judged": synthetic,
            "generator_train": [train],
            "generator_slices": [f"0:{config.labelled}"],
            "generator_pictures": config.pictures - config.labelled,
        }
        evaluate(load(EvaluateConfig, CONFIGS / "evaluate.yaml", changes))
    changes = {"runs": runs, "pairs": synthetic, "real": train, "proof": f"{runs}/proof"}
    page = report(load(ReportConfig, CONFIGS / "report.yaml", changes))
    log.info("demo: one seed and few steps show how it works; what the bundle is worth stands below that on the page")
    log.info("shards:  %s/shards", synthetic)
    log.info("numbers: mlflow ui --backend-store-uri sqlite:///%s/mlflow.db", runs)
    log.info("page:    %s", page)


def _sets(train: str, synthetic: str, labelled: int) -> dict[str, Any]:
    """What the segmenters train on, whose masks it has, and how many rows of a batch come from each."""
    own, others = f"0:{labelled}", f"{labelled}:{5 * labelled}"
    return {
        "real": {"train": [train], "slices": [own]},
        "self-training held": {"train": [train, train], "slices": [own, others], "masks": ["own", "held"]},
        "real + synthetic": {"train": [train, synthetic], "slices": [own, ":"], "shares": [1, 1]},
        "held + synthetic": {
            "train": [train, train, synthetic],
            "slices": [own, others, ":"],
            "masks": ["own", "held", "own"],
        },
    }


if __name__ == "__main__":
    command(main, DemoConfig)
