"""docs/walkthrough.md from its first command to its last, with tiny weights; and what people do with the pairs then."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from models.weights import Bundle
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.evaluation.results import Proof
from pipeline.prompts.read import read_prompts
from pipeline.reader import PairDataset
from pipeline.report import ReportConfig, report
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import PAIR
from tests.models.fabricated import save_tiny_captioner
from tests.models.golden import FOLDER
from tests.pipeline.datasets.trees import save_voc

ROOT = Path(__file__).parent.parent
TINY_STEPS = "--optimisation.num-examples 8 --optimisation.batch-size 4 --optimisation.accumulation 2"
ON_CPU = "--workers.cpus 0.5 --workers.gpus 0 --workers.threads 1"
TINY = {
    "ingest": "--workers.num 1 --rows-per-shard 2",
    "caption": f"--model {{captioner}} --precision float32 --max-new-tokens 4 {ON_CPU}",
    # Two workers, so that sharing of data and gradients is exercised.
    "train_vae": f"--cache True --widths 8 8 8 8 --decoder-width 8 --size-px 32 --workers.num 2 {TINY_STEPS} {ON_CPU}",
    "import_weights": "--base {golden}/unidiffuser",
    "encode": f"--size-px 64 {ON_CPU}",
    "train_joint": "--diffusion.text-noise dropout --preview.steps 2 --preview.batch-size 2 --workers.num 2 "
    f"--strategy fsdp --evaluate-examples 4 --optimisation.optimizer muon {TINY_STEPS} {ON_CPU}",
    "plan_prompts": "--templates={{a}}",  # captions of random weights name no classes
    "generate": f"--pairs 6 --preset own --sampler.steps 2 --sampler.batch-size 3 --refine-on.num 1 {ON_CPU}",
    "export": "--workers.num 1",
}
"""What makes each job of the page small."""


def commands() -> list[list[str]]:
    """Job and arguments of every command of the page."""
    text = (ROOT / "docs" / "walkthrough.md").read_text()
    return [shlex.split(line) for line in re.findall(r"^\$ python -m jobs\.(.*)$", text, flags=re.MULTILINE)]


@pytest.mark.ray
@pytest.mark.slow
def test_every_command_of_the_page_in_order(tmp_path, ray_session, monkeypatch):
    save_voc(tmp_path / "data")
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.chdir(tmp_path)
    places = {"captioner": str(save_tiny_captioner(tmp_path / "captioner")), "golden": str(FOLDER / "tiny_checkpoints")}

    for job, *arguments in commands():
        small = TINY[job].format(**places).split()
        monkeypatch.setattr(sys, "argv", [job, *arguments, *small])
        runpy.run_module(f"jobs.{job}", run_name="__main__", alter_sys=True)

    rows = read_shards(["runs/voc-synthetic"]).select(PAIR.names).to_pylist()
    assert len(rows) == 6 and {row["height"] for row in rows} == {64}
    prompts = read_prompts("runs/voc-prompts/prompts.parquet").to_pylist()
    assert {row["prompt"] for row in rows} <= {row["prompt"] for row in prompts}
    assert any(row["prompt_class_ids"] for row in rows), "classes of templates are known"
    assert {row["bundle"] for row in rows} == {Bundle.load("runs/voc-joint/weights").digest}
    assert len(PairDataset("runs/voc-synthetic", "runs/voc-train")) == 10
    assert len(list(Path("runs/voc-mmseg/export/SegmentationClass").iterdir())) == 6

    use(tmp_path)


def use(folder: Path) -> None:
    """A segmenter on real and synthetic pairs, and the page."""
    runs: dict[str, Any] = {"runs": f"{folder}/runs"}
    real, synthetic = f"{folder}/runs/voc-train", f"{folder}/runs/voc-synthetic"
    proof = evaluate(
        EvaluateConfig(
            run="proof",
            sets={"real + synthetic, mixed": (real, synthetic)},
            test=f"{folder}/runs/voc-val",
            test_rows=16,
            judged=synthetic,
            epochs=1,
            width=4,
            batch_size=4,
            size_px=32,
            **runs,
        )
    )
    assert [one.pairs for one in proof.sets] == [10]
    assert Proof.model_validate_json((folder / "runs/proof/proof.json").read_text()) == proof
    page = report(ReportConfig(run="report", pairs=synthetic, real=real, proof=f"{folder}/runs/proof", **runs))
    assert "data:image/png;base64" in page.read_text()
