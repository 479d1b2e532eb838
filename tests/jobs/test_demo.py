"""The demo runs from its first job to its page, with tiny weights. Its segmenters are not trained here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import demo
from jobs.demo import DemoConfig, main
from pipeline.evaluation.results import Proof
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import read_shards
from pipeline.training import proving
from pipeline.verify import verify
from tests.pipeline.fabricated import fit_at_once
from tests.tiny import SIZE_PX, save_tiny_bundle

TINY: dict[str, dict[str, Any]] = {
    "ingest": {"workers": {"num": 1}},
    "generate": {
        "preset": "own",
        "sampler": {"steps": 2, "batch_size": 16, "confidence_threshold": 0.0},
        "refine_on": {"num": 1},
    },
    "evaluate": {"steps": 3, "width": 4, "size_px": SIZE_PX, "batch_size": 16},
    "report": {},
}
"""What makes each job of the demo small."""


@pytest.fixture
def tiny_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own configs, but for the keys of TINY."""
    (tmp_path / "configs").mkdir()
    for name, changes in TINY.items():
        values = yaml.safe_load((demo.CONFIGS / f"{name}.yaml").read_text())
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        (tmp_path / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(demo, "CONFIGS", tmp_path / "configs")


@pytest.mark.ray
def test_the_demo_goes_from_pairs_to_a_page(tmp_path, tiny_configs, ray_session, monkeypatch):
    monkeypatch.setattr(proving, "fit", fit_at_once)
    save_tiny_bundle(tmp_path / "bundle", num_tokens=64)
    runs = tmp_path / "runs"
    bundle = tmp_path / "bundle"
    main(DemoConfig(runs=str(runs), bundle=str(bundle), pictures=80, labelled=8, pairs=40, test_pairs=32))

    wanted = {"train": 80, "test": 32, "synthetic": 40}
    assert {name: Manifest.load(f"{runs}/{name}/manifest.json").num_pairs for name in wanted} == wanted
    assert all(verify(f"{runs}/{name}", deep=True) == [] for name in wanted)
    prompts = [set(read_shards([f"{runs}/{name}"], ["prompt"])["prompt"].to_pylist()) for name in wanted]
    assert prompts[2] <= prompts[0], "generated from the captions of the pictures"

    proof = Proof.model_validate(json.loads((runs / "proof" / "proof.json").read_text()))
    told = {one.name: (one.labels, one.unlabelled, one.pairs, one.steps) for one in proof.sets}
    assert told == {
        "real": (8, 0, 8, 3),
        "self-training held": (8, 32, 40, 3),
        "real + synthetic": (8, 72, 48, 3),
        "held + synthetic": (8, 72, 80, 3),
    }, "equal labels and steps"
    assert proof.test.pairs == 32
    assert proof.agreement and proof.agreement.judge == "real" and len(proof.prompt_match) == 1
    page = (runs / "report" / "report.html").read_text()
    assert "40 pairs" in page and "real + synthetic" in page and "data:image/png;base64" in page
