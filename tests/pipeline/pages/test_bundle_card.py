"""The card of a bundle says what its runs say, and compares only what may be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.weights import ENCODERS, JOINT, digest
from pipeline.base.errors import DataError
from pipeline.evaluation.results import Agreement, HeldOut, Proof, TrainedSet
from pipeline.pages.bundle_card import TRAININGS, student_card, write_card, write_import_card
from tests.tiny import save_tiny_bundle


def trained(name: str, steps: int, miou: list[float]) -> TrainedSet:
    return TrainedSet(name=name, pairs=2048, steps=steps, miou=miou, iou={})


PROOF = Proof(
    test=HeldOut(folder="runs/test", pairs=512),
    seeds=[0, 1],
    classes=["background"],
    sets=[
        trained("real", 1000, [0.5, 0.7]),
        trained("synthetic", 1000, [0.3, 0.3]),
        trained("real + synthetic", 2000, [0.6, 0.8]),
    ],
    agreement=Agreement(judge="real", on="runs/synthetic", miou=0.614, pixel_accuracy=0.931),
    prompt_match={"runs/synthetic": 0.972},
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """As the four trainings and an evaluate run leave them."""
    for number, name in enumerate(TRAININGS, start=1):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        scores = {"miou": 0.9, "examples": 1000 * number, "training_s": 60.0 * number}
        (folder / "scores.json").write_text(json.dumps(scores))
    (tmp_path / "runs" / "annotation-vae" / "test.json").write_text('{"miou": 0.98765, "worst_iou": 0.91234}')
    (tmp_path / "runs" / "proof.json").write_text(PROOF.model_dump_json())
    return tmp_path / "runs"


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in cells}


def test_the_card_says_what_the_runs_say(bundle: Path, runs: Path) -> None:
    path = write_card(bundle, "garments", runs, runs / "proof.json", "\nAbout **it**.\n")
    text = path.read_text()

    assert path == bundle / "README.md"
    assert digest(bundle, ENCODERS + JOINT) in text and "About **it**." in text
    assert rows_of(text)["image-vae"] == ["2,000", "2.0 min", "miou 0.9"]
    assert rows_of(text)["joint"] == ["5,000", "5.0 min", "miou 0.9"]
    shutil.rmtree(runs / "image-decoder")  # where the decoder was not trained on
    assert "image-decoder" not in write_card(bundle, "garments", runs, runs / "proof.json", "").read_text()
    for fact in ("mIoU 0.9877, 0.9123 in the worst", "512 real", "2 seeds", "0.6140, 93.1 %", "97.2 % of the masks"):
        assert fact in text


def test_rows_with_other_steps_are_given_no_ratio(bundle: Path, runs: Path) -> None:
    rows = rows_of(write_card(bundle, "garments", runs, runs / "proof.json", "").read_text())
    found = {name: rows[name][2:6] for name in ("real", "synthetic", "real + synthetic")}
    assert found == {
        "real": ["2,048", "1,000", "0.6000 ± 0.1414", "1.000"],
        "synthetic": ["2,048", "1,000", "0.3000 ± 0.0000", "0.500"],
        "real + synthetic": ["2,048", "2,000", "0.7000 ± 0.1414", "other steps"],
    }


def test_a_proof_without_judged_pairs_and_with_one_seed(bundle: Path, runs: Path) -> None:
    proof = PROOF.model_copy(update={"seeds": [0], "agreement": None, "prompt_match": {}})
    (runs / "proof.json").write_text(proof.model_dump_json())
    text = write_card(bundle, "garments", runs, runs / "proof.json", "").read_text()
    assert "one seed, so without a spread" in text and "agree" not in text and "% of the masks" not in text


@pytest.mark.parametrize("missing", ["joint/scores.json", "annotation-vae/test.json", "proof.json"])
def test_a_run_that_has_not_finished_is_named(bundle: Path, runs: Path, missing: str) -> None:
    (runs / missing).unlink()
    with pytest.raises(DataError, match=f"{missing}: missing; the run that writes it has not finished"):
        write_card(bundle, "garments", runs, runs / "proof.json", "")
    assert not (bundle / "README.md").exists()


@pytest.mark.parametrize("joint", ["", "someone/joint"])
def test_an_imported_bundle_says_where_its_parts_are_from(bundle: Path, joint: str) -> None:
    path = write_import_card(bundle, "imported", base="thu/base@0123", joint=joint, annotation_vae="someone/vae")
    rows = rows_of(path.read_text())
    assert rows["text encoder, image encoder, image VAE"] == ["`thu/base@0123`"]
    assert rows["annotation VAE"] == ["`someone/vae`"]
    assert rows["joint network"][0].startswith(f"`{joint or 'thu/base@0123'}`")
    assert ("has not learnt masks" in rows["joint network"][0]) == (not joint)
    assert digest(bundle, ENCODERS + JOINT) in path.read_text() and "Licences" in path.read_text()


def test_only_a_student_gets_the_card_of_one(bundle: Path) -> None:
    with pytest.raises(DataError, match="names no teacher"):
        student_card(bundle, "few", {})
