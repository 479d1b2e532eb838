"""Every job of demo-train reads what an earlier one makes, with a config that is there; nothing is trained here."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from jobs import demo_train
from jobs.demo_train import DemoTrainConfig, main
from pipeline.base.places import places

VERBS = ("ingest", "train_vae", "train_clip", "label", "encode", "train_joint", "generate", "evaluate")


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
        (config.folder / "proof.json").touch()

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
    main(DemoTrainConfig(bundle="made/garments", pairs=100, seeds=2))

    assert [config.run for config in jobs.configs] == [
        *("pictures", "train", "validation", "test", "image-vae", "image-decoder", "text", "labels", "annotation-vae"),
        *("latents-labelled", "latents-labels", "latents-validation", "joint", "synthetic", "few-labels"),
    ]
    assert {config.folder.parent for config in jobs.configs} == {Path("runs/garments").absolute()}
    assert [jobs[name].split for name in ("pictures", "train", "validation", "test")] == [
        *("train", "train", "validation", "test")
    ]
    assert jobs["pictures"].labelled == "none", "networks of pictures never see a mask"


def test_nothing_sees_more_masks_than_those_of_the_first_512(jobs):
    main(DemoTrainConfig())
    with_masks = str(Path("runs/garments/train").absolute())
    for config in jobs.configs:
        if config.run in ("train", "few-labels"):
            continue
        folders = {str(place): key for key, place in places(config)}
        if with_masks in folders:
            assert tuple(config.slices)[:1] == ("0:512",), config.run
    teacher, proof = jobs["labels"], jobs["few-labels"]
    assert (Path(teacher.pairs).name, teacher.slice, teacher.slices) == ("pictures", "512:", ("0:512",))
    own = [
        (name, part)
        for name, chosen in proof.sets.items()
        for number, (folder, part) in enumerate(zip(chosen.train, chosen.slices or [":"] * 9, strict=False))
        if str(folder) == with_masks and chosen.own(number) and part != "0:512"
    ]
    assert own == [("all true masks", ":")], "the ceiling alone has more labels than the generator"
    assert (tuple(map(str, proof.generator_train)), proof.generator_slices) == ((with_masks,), ("0:512",))


def test_overrides_are_what_the_proof_stands_on(jobs):
    main(DemoTrainConfig(pairs=100, seeds=2))

    generated, proof = jobs["synthetic"], jobs["few-labels"]
    assert (generated.pairs, generated.bundle) == (100, str(Path("runs/garments/joint/weights").absolute()))
    assert next(iter(proof.sets)) == "real 512", "what the others are compared with"
    assert (Path(proof.test).name, Path(proof.judged).name, proof.seeds) == ("test", "synthetic", 2)


def test_the_bundle_replaces_the_one_before_when_its_card_is_written(jobs, tmp_path):
    old = tmp_path / "made" / "garments"
    old.mkdir(parents=True)
    (old / "stale").touch()
    main(DemoTrainConfig(bundle="made/garments"))

    assert sorted(path.name for path in old.iterdir()) == ["of", "proof.json"] and (old / "of").read_text() == "joint"
    score, card = jobs.told
    assert score == ("score_annotation_vae", Path("runs/garments/annotation-vae"), "runs/garments/test")
    assert card[:3] == ("write_card", Path("runs/garments/joint/weights"), "garments") and "Licence" in card[-1]
    assert Path(card[4]).name == "proof.json"
