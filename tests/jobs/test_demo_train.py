"""Every job of demo-train reads what an earlier one makes, with a config that is there; nothing is trained here."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from jobs import demo_train
from jobs.demo_train import DemoTrainConfig, main
from pipeline.base.places import places

VERBS = ("ingest", "train_vae", "train_clip", "encode", "train_joint", "generate", "refine", "evaluate")


class Jobs:
    """What was asked for, in order; each job leaves what it is known by, and looks for what it reads."""

    def __init__(self) -> None:
        self.configs: list[Any] = []
        self.told: list[tuple[Any, ...]] = []

    def run(self, config: Any) -> None:
        reads = {str(place) for key, place in places(config) if key not in ("runs", "root", "labels")}
        assert reads <= self.made(), f"{config.run} reads what nothing has made"
        self.configs.append(config)
        (config.folder / "weights").mkdir(parents=True)
        (config.folder / "weights" / "of").write_text(config.run)

    def made(self) -> set[str]:
        """Folders of runs and all that lies in their weights."""
        folders = [config.folder for config in self.configs]
        parts = ("weights", "weights/text_encoder", "weights/tokenizer")
        return {str(path) for folder in folders for path in (folder, *(folder / part for part in parts))}

    def __getitem__(self, run: str) -> Any:
        (found,) = [config for config in self.configs if config.run == run]
        return found


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    jobs = Jobs()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_train, "cluster", nullcontext)
    for name in VERBS:
        monkeypatch.setattr(demo_train, name, jobs.run)
    for name in ("score_annotation_vae", "write_card"):
        monkeypatch.setattr(demo_train, name, lambda *arguments, name=name: jobs.told.append((name, *arguments)))
    return jobs


def test_every_job_finds_its_config_and_reads_what_was_made_before_it(jobs):
    main(DemoTrainConfig(bundle="made/garments", proof_pairs=100, seeds=2))

    assert [config.run for config in jobs.configs] == [
        *("real-train", "real-validation", "real-test2", "annotation-vae", "image-vae", "text"),
        *("latents-train", "latents-validation", "joint", "real-proof", "synthetic"),
        *("synthetic-8px", "synthetic-16px", "synthetic-32px", "proof"),
    ]
    assert {config.folder.parent for config in jobs.configs} == {Path("runs").absolute()}
    splits = {name: jobs[name].split for name in ("real-train", "real-validation", "real-test2", "real-proof")}
    assert splits == {
        "real-train": "train",
        "real-validation": "validation",
        "real-test2": "test",
        "real-proof": "train",
    }


def test_overrides_are_what_the_proof_stands_on(jobs):
    main(DemoTrainConfig(proof_pairs=100, seeds=2, areas_px=(4, 12)))

    generated, proof = jobs["synthetic"], jobs["proof"]
    assert (generated.pairs, generated.refine.min_area_px) == (100, 0), "refined masks cannot be refined again"
    assert (generated.sampler.steps, generated.bundle) == (20, str(Path("runs/joint/weights").absolute()))
    assert [jobs[f"synthetic-{area}px"].refine.min_area_px for area in (4, 12)] == [4, 12]
    assert next(iter(proof.sets)) == "real", "what the others are compared with"
    assert {name: [Path(one).name for one in chosen.train] for name, chosen in proof.sets.items()} == {
        "real": ["real-proof"],
        "synthetic": ["synthetic"],
        "synthetic, refined 4 px": ["synthetic-4px"],
        "synthetic, refined 12 px": ["synthetic-12px"],
        "real + synthetic": ["real-proof", "synthetic-12px"],
    }
    assert (Path(proof.test).name, Path(proof.judged).name) == ("real-test2", "synthetic-12px")
    assert (proof.seeds, proof.epochs, proof.test_rows) == (2, 24, jobs["real-test2"].pairs)


def test_one_threshold_serves_the_mixture_too(jobs):
    main(DemoTrainConfig(areas_px=(8,)))
    assert [Path(one).name for one in jobs["proof"].sets["real + synthetic"].train] == ["real-proof", "synthetic-8px"]


def test_the_bundle_replaces_the_one_before_when_its_card_is_written(jobs, tmp_path):
    old = tmp_path / "made" / "garments"
    old.mkdir(parents=True)
    (old / "stale").touch()
    main(DemoTrainConfig(bundle="made/garments"))

    assert [path.name for path in old.iterdir()] == ["of"] and (old / "of").read_text() == "joint"
    score, card = jobs.told
    assert score == ("score_annotation_vae", Path("runs/annotation-vae"), "runs/real-test2")
    assert card[:3] == ("write_card", Path("runs/joint/weights"), "garments") and "Licence" in card[-1]
    assert Path(card[4]).name == "proof.json"
