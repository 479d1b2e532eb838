"""Find what a segmenter fails at, generate pairs for that, and look again: round after round."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from jobs import command
from models.reverse import SamplerSettings
from pipeline.base.config import Workers
from pipeline.base.log import log
from pipeline.base.places import Folder, SentFolder, as_given
from pipeline.cluster.connection import cluster
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.evaluation.results import Proof
from pipeline.generate import GenerateConfig, generate
from pipeline.plan_prompts import PromptsConfig, plan_prompts
from pipeline.stages.refine import Refine
from pipeline.stages.sample import Preset
from pipeline.storage.publish import write_bytes
from pipeline.training.terms import SegmenterKeys

TABLE = "loop.md"
REAL = "real"


class LoopConfig(SegmenterKeys):
    """Evaluates on validation pairs, asks for what fails, generates just that, and evaluates again. The same command
    goes on where it was stopped."""

    real: Folder
    """Run of labelled pairs."""
    slice: str = ":"
    """Which of them, as START:STOP in the order of their ids."""
    validation: Folder
    """Run of labelled pairs that says what fails and when to stop; never the test pairs: measure on these at last."""
    prompts: Folder
    """Run whose captions are asked for."""
    bundle: SentFolder
    """Folder of the weights, a path or a URL."""
    rounds: int = Field(3, ge=1)
    """At most."""
    pairs: int = Field(1000, ge=1)
    """Generated in each."""
    least_gain: float = Field(0.002, ge=0)
    """The last round is the one that gains less mIoU than this."""
    hardest: float = Field(4.0, ge=1)
    """How often the hardest prompt comes, in multiples of the easiest."""
    share: float = Field(0.5, gt=0, lt=1)
    """Of the rows of a batch that are generated pairs, of all rounds so far."""
    generator_labels: int = Field(0, ge=0)
    """Labelled pairs that the generator learned from, to be told with its rows; 0 says that it is not known."""
    preset: Preset = "fast"
    """As of jobs.generate."""
    sampler: SamplerSettings = SamplerSettings()
    """As of jobs.generate."""
    redraws: int = Field(2, ge=0, le=100)
    """As of jobs.generate."""
    refine: Refine = Refine()
    """As of jobs.generate."""
    sample_on: Workers = Workers()
    """Sampler processes; with GPUs, one each."""


def main(config: LoopConfig) -> None:
    log.info(
        "loop: %d rounds of %s pairs at most, each with %d trainings; it ends when one gains less than %g",
        config.rounds, f"{config.pairs:,}", config.seeds, config.least_gain,
    )  # fmt: skip
    with cluster():
        proof = evaluate(evaluation(config, 0))
        write(config, proof)
        for number in range(1, config.rounds + 1):
            before = np.mean(proof.sets[-1].miou)
            ask_for_what_fails(config, number, proof.sets[-1].name)
            proof = evaluate(evaluation(config, number))
            write(config, proof)
            gain = float(np.mean(proof.sets[-1].miou) - before)
            log.info("loop: round %d gains %+.4f mIoU on validation pairs", number, gain)
            if gain < config.least_gain:
                log.info("loop: that is less than %g, so it ends here", config.least_gain)
                break


def ask_for_what_fails(config: LoopConfig, number: int, row: str) -> None:
    """Plans the prompts of a round by the figures of `row`, and generates its pairs."""
    here = {"runs": config.runs, "experiment": config.experiment, "tracking_uri": config.tracking_uri}
    plan = {
        "run": f"{config.run}/prompts-{number}", "pairs": [config.prompts], "hardness": f"{config.folder}/proof",
        "hardness_set": row, "hardest": config.hardest,
    }  # fmt: skip
    plan_prompts(PromptsConfig.model_validate({**here, **plan}))  # again the same: what is trained gives equal figures
    made = {
        "run": f"{config.run}/pairs-{number}", "prompts": f"{config.folder}/prompts-{number}/prompts.parquet",
        "seed": number, "bundle": config.bundle, "pairs": config.pairs, "preset": config.preset,
        "sampler": config.sampler, "redraws": config.redraws, "refine": config.refine, "workers": config.sample_on,
    }  # fmt: skip
    generate(GenerateConfig.model_validate({**here, **made}))


def evaluation(config: LoopConfig, rounds: int) -> EvaluateConfig:
    """The proof on validation pairs with the pairs of so many rounds; what is trained already serves again."""
    sets: dict[str, Any] = {REAL: {"train": [config.real], "slices": [config.slice]}}
    for last in range(1, rounds + 1):
        made = [f"{config.folder}/pairs-{number}" for number in range(1, last + 1)]
        sets[f"round {last}"] = {
            "train": [config.real, *made],
            "slices": [config.slice, *[":"] * last],
            "shares": [1 - config.share, *[config.share / last] * last],
        }
    keys = {name: getattr(config, name) for name in SegmenterKeys.model_fields}
    own = {"run": f"{config.run}/proof", "sets": sets, "test": config.validation}
    return EvaluateConfig.model_validate({**keys, **own, "generator_labels": config.generator_labels})


def write(config: LoopConfig, proof: Proof) -> None:
    """The table of the rounds so far."""
    lines = [
        f"Validation pairs: {as_given(config.validation)}. They steer the loop and end it, so that these figures are "
        "too good: measure on test pairs what comes of it.",
        "",
        "| | generated pairs | mIoU | fails most at |",
        "|---|--:|--:|---|",
    ]
    for number, row in enumerate(proof.sets):
        known = {name: [one for one in ious if one is not None] for name, ious in row.iou.items()}
        worst = sorted((float(np.mean(ious)), name) for name, ious in known.items() if ious)[:3]
        spread = f" ± {np.std(row.miou, ddof=1):.4f}" if len(row.miou) > 1 else ""
        shown = ", ".join(f"{name} {value:.2f}" for value, name in worst)
        lines.append(f"| {row.name} | {number * config.pairs:,} | {np.mean(row.miou):.4f}{spread} | {shown} |")
    write_bytes(f"{config.folder}/{TABLE}", ("\n".join(lines) + "\n").encode())
    log.info("loop: %s/%s", config.folder, TABLE)


if __name__ == "__main__":
    command(main, LoopConfig)
