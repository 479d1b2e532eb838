"""The loop asks for what failed last, keeps what it made, and ends when nothing more is gained."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import jobs.loop as job
from jobs.loop import LoopConfig, main
from pipeline.evaluation.results import HeldOut, Proof, TrainedSet
from pipeline.training.terms import SegmenterKeys


class Jobs:
    """What was asked for, in order; mIoU by the number of rounds."""

    def __init__(self, miou: list[float]) -> None:
        self.miou = miou
        self.asked: list[Any] = []

    def run(self, config: Any) -> None:
        self.asked.append(config)
        config.folder.mkdir(parents=True, exist_ok=True)
        (config.folder / "config.yaml").touch()

    def evaluate(self, config: Any) -> Proof:
        self.run(config)
        rows = [
            TrainedSet(name=name, pairs=1, steps=1, miou=[value, value], iou={"bag": [value, None], "boot": [0.9, 0.9]})
            for name, value in zip(config.sets, self.miou, strict=False)
        ]
        return Proof(test=HeldOut(folder="v", pairs=1), seeds=[0, 1], classes=["background", "bag", "boot"], sets=rows)

    def of(self, kind: str) -> list[Any]:
        return [one for one in self.asked if type(one).__name__ == kind]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def began(miou: list[float], **changes: Any) -> tuple[Jobs, str]:
        jobs = Jobs(miou)
        monkeypatch.setattr(job, "cluster", nullcontext)
        for name in ("plan_prompts", "generate"):
            monkeypatch.setattr(job, name, jobs.run)
        monkeypatch.setattr(job, "evaluate", jobs.evaluate)
        values = {
            "run": "loop", "runs": str(tmp_path), "real": "r", "slice": "0:9", "validation": "v", "prompts": "p",
            "bundle": "b", "pairs": 50, "seeds": 2, "steps": 7,
        }  # fmt: skip
        main(LoopConfig.model_validate({**values, **changes}))
        return jobs, (tmp_path / "loop" / "loop.md").read_text()

    return began


def test_each_round_asks_for_what_the_last_one_failed_at_and_keeps_its_pairs(begin, tmp_path):
    jobs, table = begin([0.5, 0.55, 0.6])
    first, second = jobs.of("PromptsConfig")[:2]
    assert (first.hardness_set, second.hardness_set) == ("real", "round 1")
    assert first.hardness == str(tmp_path / "loop" / "proof")
    made = jobs.of("GenerateConfig")
    assert [(one.run, one.seed, one.pairs, one.redraws) for one in made[:2]] == [
        ("loop/pairs-1", 1, 50, 2),
        ("loop/pairs-2", 2, 50, 2),
    ], "other noise in each round"
    last = jobs.of("EvaluateConfig")[2].sets["round 2"]
    assert [Path(one).name for one in last.train] == ["r", "pairs-1", "pairs-2"]
    assert last.slices == ("0:9", ":", ":") and last.shares == (0.5, 0.25, 0.25)
    assert all(Path(one.test).name == "v" and one.steps == 7 for one in jobs.of("EvaluateConfig"))
    assert "| round 2 | 100 | 0.6000 ± 0.0000 | bag 0.60, boot 0.90 |" in table and "too good" in table


def test_it_ends_when_a_round_gains_too_little_or_all_are_done(begin):
    assert len(begin([0.5, 0.55, 0.551])[0].of("GenerateConfig")) == 2, "the second gains 0.001"
    assert len(begin([0.5, 0.4])[0].of("GenerateConfig")) == 1
    assert len(begin([0.5, 0.6, 0.7, 0.8, 0.9], rounds=3)[0].of("GenerateConfig")) == 3


def test_every_key_of_segmenters_reaches_the_trainings():
    keys = {"seeds": 5, "steps": 11, "segmenter": "segformer_b0", "crop_px": 64, "at_once": 2}
    values = {"run": "a", "real": "r", "validation": "v", "prompts": "p", "bundle": "b"}
    config = job.evaluation(LoopConfig.model_validate({**values, **keys}), 1)
    assert {name: getattr(config, name) for name in keys} == keys
    assert set(SegmenterKeys.model_fields) <= set(LoopConfig.model_fields)
