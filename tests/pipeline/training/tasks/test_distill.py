"""A student of few steps comes nearer to its teacher than the teacher itself in as few, and is sampled as taught."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.diffusion import Diffusion, LossWeights, joint_loss
from models.draws import Draws
from models.jodiffusion import JoDiffusion, Joint
from models.reverse import SamplerSettings, Student
from models.sampler import PairSampler
from models.weights import Bundle, read_facts
from pipeline.base.errors import ConfigError
from pipeline.pages.bundle_card import student_card
from pipeline.training.feed import to_tensors
from pipeline.training.loop import train
from pipeline.training.needs import training_needs
from pipeline.training.optimisation import Optimisation
from pipeline.training.parallel import Group
from pipeline.training.state import TrainState
from pipeline.training.tasks.distill import DistillConfig, DistillTask, distill
from tests.tiny import save_pairs, save_tiny_bundle

BATCH, STEPS = 8, 2
PROMPTS = ["a red bag", "a blue dress"] * (BATCH // 2)


@pytest.fixture(scope="module", params=["flow", "epsilon"])
def teacher(request, tmp_path_factory) -> Path:
    """A bundle whose tiny network knows two pairs, one for each prompt, as `objective` says."""
    folder = tmp_path_factory.mktemp(request.param)
    bundle = save_tiny_bundle(folder)
    bundle.diffusion = Diffusion(objective=request.param, text_noise="dropout", text_dropout=0.2)
    torch.manual_seed(0)
    bundle.net = JoDiffusion(replace(bundle.net.config, num_heads=4, head_width=16))
    learn_two_pairs(bundle)
    bundle.save(folder)
    return folder


def learn_two_pairs(bundle: Bundle) -> None:
    clean = Joint(torch.randn(2, 4, 4, 4), torch.randn(2, 1, 8), torch.randn(2, 4, 4, 4))
    clean = Joint(*(part.repeat(BATCH // 2, *[1] * (part.ndim - 1)) for part in clean))
    with torch.no_grad():
        text = bundle.encoders.text(PROMPTS)
    optimizer = torch.optim.AdamW(bundle.net.parameters(), lr=3e-3)
    for step in range(300):
        draws = Draws(0, step, range(BATCH))
        loss, _ = joint_loss(bundle.net.train(), bundle.diffusion, clean, text, LossWeights(), draws)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def config_for(folder: Path, **changes) -> DistillConfig:
    required = {
        "run": "student",
        "train": (str(folder),),
        "validation": str(folder),
        "bundle": str(folder),
        "steps": STEPS,
        "teacher": SamplerSettings(steps=4 * STEPS, solver="dpmsolver++2", guidance=2.0, guided_to=0.75),
        "optimisation": Optimisation(
            num_examples=(100 if folder.name.startswith("flow") else 250) * BATCH, batch_size=BATCH,
            learning_rate=3e-3, decay_share=0.5, ema_decay=0.9,
            precision="float32",
        ),
    }  # fmt: skip
    return DistillConfig.model_validate({**required, **changes})


def task_for(folder: Path, **changes) -> DistillTask:
    config = config_for(folder, **changes)
    return DistillTask(config, Student(config.steps, 2.0, "abc"))


def batch_of(task: DistillTask):
    return to_tensors(task.decode({"prompt": np.array(PROMPTS, object)}))


def begun(task: DistillTask) -> TrainState:
    torch.manual_seed(0)
    return TrainState(task.build(), task.config.optimisation)


def taught(task: DistillTask, state: TrainState, steps: int | None = None) -> None:
    """Trains for so many steps, or to the end."""
    batch = batch_of(task)
    reports = train(task, state.net, state, (batch for _ in count()), task.config.optimisation)
    list(islice(reports, steps))


def test_a_student_comes_nearer_than_its_teacher_in_as_few_steps(teacher, tmp_path, monkeypatch):
    task = task_for(teacher)
    state = begun(task)
    taught(task, state)
    with torch.no_grad():
        evaluation = task.evaluate(state.average, batch_of(task))
        again = task.evaluate(state.average, batch_of(task))
    found = evaluation.metrics
    assert found == again.metrics, "judging gives the same whenever it is asked"
    of_teacher = found["distance"] / found["undistilled/distance"]
    assert of_teacher < (0.5 if teacher.name.startswith("flow") else 0.9), "of epsilon it learns first to predict v"
    assert evaluation.pictures["samples"].shape[1:] == (BATCH * 16, 3)

    task.save(state.average, {}, tmp_path)
    card = student_card(tmp_path, "few", {**found, "examples": 1600})
    assert "Distilled from the bundle `abc`" in card and "takes 2 evaluations" in card
    assert (
        "guidance 2 built in" in card
        and f"| its teacher in as many steps | {found['undistilled/distance']:.4f}" in card
    )
    loaded = Bundle.load(tmp_path)
    assert loaded.student == Student(STEPS, 2.0, "abc") and loaded.guidance == 1
    assert loaded.diffusion.objective == ("flow" if teacher.name.startswith("flow") else "v")
    sampler = PairSampler(loaded, SamplerSettings(precision="float32", batch_size=2))
    rows, forward = [], sampler.bundle.net.forward

    def spy(noisy, text, *times):
        rows.append(len(text))
        return forward(noisy, text, *times)

    monkeypatch.setattr(sampler.bundle.net, "forward", spy)
    together = sampler(["a red bag", "a blue dress"], [1, 2])
    assert rows == [2] * STEPS, "one row a pair, no branch without text"
    assert np.array_equal(sampler(["a blue dress"], [2]).image[0], together.image[1])


def test_what_was_stopped_goes_on_as_if_it_had_not_been(teacher):
    task = task_for(teacher, optimisation=replaced(teacher, num_examples=6 * BATCH))
    whole, first, second = begun(task), begun(task), begun(task)
    taught(task, whole)
    taught(task, first, 3)
    second.restore(first.snapshot(Group()), where="memory")
    second.step = first.step
    taught(task, second)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[name]), name


def replaced(folder: Path, **changes) -> Optimisation:
    return config_for(folder).optimisation.model_copy(update=changes)


def test_it_begins_as_its_teacher_and_its_size_is_known_before(teacher):
    task = task_for(teacher)
    weights = Bundle.load(teacher).net.state_dict()
    for name, value in task.build().state_dict().items():
        assert torch.equal(value, weights[name]), name
    needs = training_needs(task, task.config.optimisation, {"token_ids": batch_of(task)["token_ids"][:1]})
    assert needs.memory["activations"] > 0


def test_wrong_settings_are_explained(teacher, tmp_path):
    with pytest.raises(ValidationError, match=r"teacher.steps 7 must be a multiple of steps 2"):
        config_for(teacher, teacher=SamplerSettings(steps=7))
    with pytest.raises(ValidationError, match=r"teacher.precision, teacher.batch_size, teacher.step_cache cannot be"):
        config_for(teacher, teacher=SamplerSettings(steps=8, precision="float32", batch_size=4, step_cache="on"))
    with pytest.raises(ValidationError, match="no meaning here"):
        config_for(teacher, loss_weights=LossWeights(min_snr=5.0))
    task_for(teacher).save(Bundle.load(teacher).net, {}, tmp_path)
    with pytest.raises(ConfigError, match="was distilled to 2 evaluations itself; give the one that taught it, abc"):
        distill(config_for(tmp_path))


@pytest.mark.ray
def test_the_job_leaves_a_bundle_that_names_its_teacher(tmp_path, ray_session):
    bundle = save_tiny_bundle(tmp_path / "bundle", num_tokens=64)
    pairs = str(save_pairs(tmp_path / "pairs", 16))
    recipe = replaced(tmp_path / "bundle", num_examples=16)
    config = config_for(
        tmp_path / "bundle", runs=str(tmp_path), train=(pairs,), validation=pairs, validation_rows=4,
        optimisation=recipe, teacher=SamplerSettings(steps=4, guided_to=0.5),
    )  # fmt: skip
    scores = distill(config)
    assert scores["examples"] == 16 and 0 <= scores["mask_agreement"] <= 1
    assert read_facts(tmp_path / "student" / "weights").student == Student(STEPS, bundle.guidance, bundle.digest)
    assert distill(config) == scores, "a finished run returns at once"
