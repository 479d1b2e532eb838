"""The whole way on the built-in data: real pairs, generated pairs, the proof, and a page to look at."""

from __future__ import annotations

from pathlib import Path

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
    pairs: int = Field(512, ge=32)
    """Pairs to generate, and real pairs to compare them with."""
    test_pairs: int = Field(512, ge=32)
    """Real held-out pairs that segmenters are tested on."""


def main(config: DemoConfig) -> None:
    set_up_logging()
    runs, real, synthetic = config.runs, f"{config.runs}/real-train", f"{config.runs}/synthetic"
    log.info("demo: read %d real pairs, generate %d, train segmenters, write a page", config.pairs, config.pairs)
    with cluster():
        # The second set has more photographs to test on, and says which of them each picture shows.
        wanted = (
            ("real-train", "train", "builtin", config.pairs),
            ("real-test2", "test", "builtin2", config.test_pairs),
        )
        for run, split, dataset, pairs in wanted:
            ingest(
                load(
                    IngestConfig,
                    CONFIGS / "ingest.yaml",
                    {"runs": runs, "run": run, "dataset": dataset, "split": split, "pairs": pairs},
                )
            )
        generate(
            load(
                GenerateConfig,
                CONFIGS / "generate.yaml",
                {"runs": runs, "bundle": config.bundle, "prompts": real, "pairs": config.pairs},
            )
        )
        evaluate(
            load(
                EvaluateConfig,
                CONFIGS / "evaluate.yaml",
                {
                    "runs": runs,
                    "sets": {"real": [real], "synthetic": [synthetic], "real + synthetic": [real, synthetic]},
                    "test": f"{runs}/real-test2",
                    "judged": synthetic,
                    "test_rows": config.test_pairs,
                },
            )
        )
    page = report(
        load(
            ReportConfig,
            CONFIGS / "report.yaml",
            {"runs": runs, "pairs": synthetic, "real": real, "proof": f"{runs}/proof"},
        )
    )
    log.info("shards:  %s/shards", synthetic)
    log.info("numbers: mlflow ui --backend-store-uri sqlite:///%s/mlflow.db", runs)
    log.info("page:    %s", page)


if __name__ == "__main__":
    command(main, DemoConfig)
