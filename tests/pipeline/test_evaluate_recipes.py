"""Which training a proof asks for: its name, its recipe, and what cannot be asked."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from models.labels import GARMENTS
from models.pretrained import _on_the_hub
from models.published_files import Published
from models.weights import ENCODERS, JOINT
from pipeline.base.errors import ConfigError
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.training.terms import Terms
from pipeline.training.worker import SCORES
from tests.pipeline.fabricated import training_of
from tests.tiny import save_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return str(save_pairs(tmp_path_factory.mktemp("pairs"), 8))


def config(pairs, **changed) -> EvaluateConfig:
    return EvaluateConfig.model_validate(
        {"run": "proof", "sets": {"real": [pairs]}, "test": pairs, "epochs": 6144, **changed}
    )


def test_the_small_unet_keeps_its_recipe_and_published_ones_bring_theirs(pairs):
    small = training_of(config(pairs)).optimisation
    assert small.dump() == {
        "num_examples": 49152,
        "batch_size": 32,
        "accumulation": 1,
        "optimizer": "adamw",
        "learning_rate": 0.005,
        "matrix_learning_rate": 0.002,
        "betas": [0.9, 0.999],
        "weight_decay": 0.01,
        "warmup_examples": 640,
        "decay_share": 0.8,
        "gradient_clip": 1.0,
        "ema_decay": 0.98,
        "precision": "bfloat16",
    }
    large = training_of(config(pairs, segmenter="deeplabv3_r50", learning_rate=0.02)).optimisation
    assert (large.optimizer, large.batch_size, large.learning_rate) == ("sgd", 16, 0.02)


def test_a_training_is_named_by_all_that_it_depends_on(pairs, monkeypatch, tmp_path):
    monkeypatch.setattr("models.pretrained.locate", lambda source: Published(tmp_path, f"{source}@commit"))

    def name(**changed) -> str:
        return training_of(config(pairs, **changed)).run

    kinds: list[dict[str, Any]] = [
        {},
        {"segmenter": "deeplabv3_r50"},
        {"segmenter": "deeplabv3_r50", "recipe": "dataset_diffusion"},
        {"segmenter": "deeplabv3_r50", "crop_px": 256},
        {"segmenter": "deeplabv3_r50", "pretrained": "owner/name"},
        {"segmenter": "deeplabv3_r50", "multi_scale": True},
    ]
    assert len({name(**kind) for kind in kinds}) == len(kinds)
    assert name() == name(crop_px=256) == name(batch_size=32, learning_rate=5e-3)  # which says nothing new of it


@pytest.mark.parametrize(("steps", "between"), [(100, 20_000), (20_000, 20_000), (160_000, 128_000)])
def test_a_long_training_is_saved_on_its_way(pairs, steps, between):
    asked = config(pairs, segmenter="deeplabv3_tiny", steps=steps)
    assert training_of(asked).checkpoint_examples == between


def test_other_weights_under_the_same_name_are_another_training(pairs, tmp_path, monkeypatch):
    def name(pretrained="") -> str:
        kind = {"segmenter": "deeplabv3_tiny", "pretrained": str(pretrained)}
        return training_of(config(pairs, **kind)).run

    file, folder = tmp_path / "weights.pth", tmp_path / "folder"
    folder.mkdir()
    names = [name()]
    for number in range(2):
        tensors = {"a": torch.full((3,), float(number))}
        torch.save(tensors, file)
        save_file(tensors, folder / "model.safetensors")
        names += [name(file), name(folder)]
        assert name(file) == names[-2]
    assert len(set(names)) == 5
    shutil.copy(file, tmp_path / "elsewhere.pth")
    assert name(tmp_path / "elsewhere.pth") == name(file), "the same weights"
    for commit in ("one", "two"):
        monkeypatch.setattr("models.pretrained.locate", lambda source, at=commit: Published(folder, f"{source}@{at}"))
        _on_the_hub.cache_clear()
        names.append(name("owner/name"))
    assert len(set(names)) == 7
    with pytest.raises(ConfigError, match="pretrained of deeplabv3_tiny: .* no such file of weights"):
        name(tmp_path / "none.pth")


def test_finished_trainings_of_before_serve_though_their_names_hold_the_place_of_weights_alone(
    pairs, tmp_path, monkeypatch
):
    said: list[str] = []
    monkeypatch.setattr("pipeline.base.log.log.warning", lambda text, *values: said.append(text % values))
    torch.save({"a": torch.zeros(3)}, tmp_path / "weights.pth")
    kind = {"segmenter": "deeplabv3_tiny", "pretrained": str(tmp_path / "weights.pth")}

    def name() -> str:
        return training_of(config(pairs, runs=str(tmp_path), **kind)).run

    def finish(run: str) -> None:
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / SCORES).touch()

    now = name()
    with monkeypatch.context() as before:
        before.setattr(Terms, "_begun_with", lambda terms: terms.pretrained)
        earlier = name()
    assert earlier != now and not said
    finish(earlier)
    assert name() == earlier and "did not note what" in said.pop() and not said
    finish(now)
    assert name() == now and not said


def test_another_bundle_at_the_same_place_is_another_training(pairs, tmp_path):
    def name() -> str:
        return training_of(config(pairs, segmenter="joint_head", pretrained=str(tmp_path))).run

    for part in ENCODERS + JOINT:
        (tmp_path / part).write_text("{}")
    before = name()
    (tmp_path / "card.md").write_text("what is no part of it")
    assert name() == before
    (tmp_path / "joint").write_text("another")
    assert name() != before


def test_weights_that_do_not_fit_are_told_before_anything_is_trained(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.evaluate.refuse_overlap", lambda config: [])
    torch.save({"stem.0.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    asked = config(pairs, runs=str(tmp_path), segmenter="deeplabv3_tiny", pretrained=str(tmp_path / "odd.pth"))
    with pytest.raises(ConfigError, match=r"pretrained of deeplabv3_tiny: .*odd\.pth does not fit the network:\n"):
        evaluate(asked)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"pretrained": "owner/name"}, "unet_small has no pre-trained weights"),
        ({"segmenter": "segformer_b0", "recipe": "dataset_diffusion"}, "is one of deeplabv3, not of segformer_b0"),
        ({"segmenter": "fcn"}, "unet_small"),
    ],
)
def test_what_a_segmenter_has_not_is_refused(pairs, changed, told):
    with pytest.raises(ValidationError, match=told):
        config(pairs, **changed)


def test_drawing_masks_anew_begins_after_a_quarter_of_the_steps_and_makes_another_training(pairs):
    first = {"train": [pairs]}
    plain, again = (
        config(pairs, steps=80, sets={"real": first, "other": {**first, "relabel": how}}) for how in ("", "held")
    )
    chosen = again.sets["other"]
    terms = again.terms(again.sets["real"])
    task = terms.task(again.task(GARMENTS), chosen)
    assert task.relabelling and (task.relabelling.held, task.relabelling.own_steps) == (True, 20)
    assert terms.task(again.task(GARMENTS), again.sets["real"]).relabelling is None
    assert training_of(again, "other").run != training_of(plain, "other").run
    assert training_of(again, "real").run == training_of(plain, "real").run
