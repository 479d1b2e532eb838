"""The plan of a training says what it will then take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from models.diffusion import Diffusion, LossWeights
from models.draws import Draws
from models.jodiffusion import JoDiffusion, JoDiffusionConfig
from models.labels import GARMENTS
from pipeline.training.loop import train
from pipeline.training.needs import GIB, training_needs
from pipeline.training.optimisation import Optimisation
from pipeline.training.parallel import Group
from pipeline.training.state import TrainState
from pipeline.training.tasks.joint import JointTask
from pipeline.training.tasks.segmenter import SegmenterTask
from tests.pipeline.training.fabricated import BATCH, SHAPES, TASK, latent_batches

EXAMPLE = {name: torch.empty(1, *shape) for name, shape in SHAPES.items()}


def recipe(**changes) -> Optimisation:
    return Optimisation(**{"num_examples": 80, "batch_size": BATCH, "precision": "float32", **changes})


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_weighs_what_was_planned(optimizer):
    settings = recipe(optimizer=optimizer)
    state = TrainState(TASK.build(), settings)
    next(train(TASK, state.net, state, latent_batches(range(BATCH)), settings))
    needs = training_needs(TASK, settings, EXAMPLE)

    assert needs.parameters == sum(one.numel() for one in state.net.parameters())
    assert needs.checkpoint == pytest.approx(sum(one.nbytes for one in state.snapshot(Group()).values()), rel=0.01)


def test_activations_are_those_that_autograd_keeps():
    net, draws = TASK.build(), Draws(0, 0, range(BATCH))
    own = {one.untyped_storage().data_ptr() for one in net.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        TASK.loss(net, next(latent_batches(range(BATCH))), draws)
    needs = training_needs(TASK, recipe(), EXAMPLE, fused_attention=False)

    assert needs.memory["activations"] == pytest.approx(sum(one.nbytes() for one in kept.values()), rel=0.1)


def test_workers_slices_parts_and_recomputing_take_less():
    whole = training_needs(TASK, recipe(), EXAMPLE)
    sliced = training_needs(TASK, recipe(), EXAMPLE, world_size=4, strategy="fsdp")
    parts = training_needs(TASK, recipe(accumulation=4), EXAMPLE)
    again = training_needs(TASK, recipe(), EXAMPLE, recompute=True)

    assert sliced.memory["optimiser"] == whole.memory["optimiser"] / 4
    assert parts.memory["activations"] == pytest.approx(whole.memory["activations"] / 4, rel=0.05)
    assert again.memory["activations"] < whole.memory["activations"]
    assert sliced.tokens == whole.tokens == BATCH * JoDiffusion(TASK.config.net).num_tokens


def test_the_papers_network_at_full_size():
    net = JoDiffusionConfig()
    settings = SimpleNamespace(net=net, diffusion=Diffusion(), loss_weights=LossWeights())
    task = JointTask(cast(Any, settings), "", "", {})
    latent = torch.empty(1, 4, 64, 64, device="meta")
    example = {
        "image_latent": latent,
        "mask_latent": latent,
        "image_embedding": torch.empty(1, 1, 512, device="meta"),
        "text_embedding": torch.empty(1, 77, 768, device="meta"),
    }
    one = training_needs(task, Optimisation(num_examples=1, batch_size=1), example)

    assert one.parameters == 954_232_224
    assert one.memory["weights"] == pytest.approx(3.55 * GIB, rel=0.01)
    assert one.memory["activations"] == pytest.approx(3.3 * GIB, rel=0.1)
    assert "954,232,224 parameters; 2,129 tokens a step" in str(one)


def test_convolutions_are_planned_too():
    task = SegmenterTask(GARMENTS, "unet_small", 8)
    example = {"image": torch.empty(1, 32, 32, 3, dtype=torch.uint8), "mask": torch.empty(1, 32, 32, dtype=torch.uint8)}

    assert training_needs(task, recipe(), example).memory["activations"] > 8 * 32 * 32 * 3 * 4
