"""Layers as compiled code: each kind once for each of two shapes, never silently anything else, the same pairs."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import models.compiled
from models.compiled import Compiled
from models.jodiffusion import JoDiffusion
from models.reverse import SamplerSettings
from models.sampler import PairSampler
from models.uvit import FeedForward
from tests.models.test_step_cache import NOTHING, schedule
from tests.tiny import NET, save_tiny_bundle

SETTINGS = SamplerSettings(
    steps=4, solver="dpmsolver++2", guidance=2.0, guided_to=0.5, precision="float32", batch_size=4, compile=True
)
KINDS = 3
"""Feed-forward, norm of a sum, skip."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return replace(save_tiny_bundle(tmp_path_factory.mktemp("bundle")), schedule=schedule())


def compiled(sampler: PairSampler) -> Compiled:
    assert sampler.compiled
    return sampler.compiled


@pytest.fixture
def graphs(monkeypatch):
    """Captured by a backend that makes no code of them, which would take some seconds each."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(models.compiled, "inductor", lambda: backend)
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_code_that_is_really_made_gives_the_same_pairs_alone_and_in_any_batch(bundle, precision):
    """With Inductor and the C++ compiler of this machine, and a step cache."""
    torch._dynamo.reset()
    settings = replace(SETTINGS, precision=precision)
    sampler = PairSampler(bundle, settings)
    assert compiled(sampler).graphs == 2 * KINDS and compiled(sampler).seconds > 0
    together = sampler(["a red bag", "a blue dress", "a green boot"], [1, 2, 3])
    alone = sampler(["a blue dress"], [2])
    assert np.array_equal(alone.image[0], together.image[1]) and np.array_equal(alone.mask[0], together.mask[1])
    plain = PairSampler(bundle, replace(settings, compile=False))(["a blue dress"], [2])
    assert np.abs(alone.image.astype(int) - plain.image).max() <= (1 if precision == "float32" else 8)

    computing = PairSampler(replace(bundle, schedule=schedule([NOTHING] * 4)), replace(settings, step_cache="on"))
    assert compiled(computing).graphs == 0, "there is code for these shapes"
    assert np.array_equal(computing(["a blue dress"], [2]).image, alone.image)
    reusing = PairSampler(bundle, replace(settings, step_cache="on"))
    cached = reusing(["a red bag", "a blue dress", "a green boot"], [1, 2, 3])
    assert np.array_equal(reusing(["a blue dress"], [2]).image[0], cached.image[1])
    assert not np.array_equal(cached.image[1], together.image[1]) and compiled(reusing).graphs == 0


def test_each_kind_of_layer_is_compiled_once_for_each_of_two_shapes(bundle, graphs):
    deep = replace(bundle, net=JoDiffusion(replace(NET, num_layers=6)))
    sampler = PairSampler(deep, SETTINGS)
    assert len(graphs) == compiled(sampler).graphs == 2 * KINDS, "however many blocks there are"
    sampler(["a red bag"], [1])
    sampler(["a blue dress", "a red bag"], [2, 3])
    sampler.images_of(np.ones((1, 16, 16), np.uint8), ["a red bag"], [1])
    assert len(graphs) == 2 * KINDS, "whatever the batch holds"
    PairSampler(deep, replace(SETTINGS, guidance=1.0))
    assert len(graphs) == 2 * KINDS, "one of the two shapes"


def test_a_third_shape_is_refused(bundle, graphs):
    sampler = PairSampler(bundle, SETTINGS)
    layer = next(layer for layer in sampler.bundle.net.modules() if isinstance(layer, FeedForward))
    tokens = torch.zeros(8, sampler.bundle.net.num_tokens, NET.width)
    with torch.inference_mode(), compiled(sampler).only():
        for rows in (8, 4):
            layer(tokens[:rows].clone())
        with pytest.raises(RuntimeError, match="recompile"):
            layer(tokens[:3].clone())


def test_what_is_no_single_graph_is_refused_and_does_not_run_as_it_is(graphs, monkeypatch):
    def broken(self, x):
        torch._dynamo.graph_break()
        return x

    monkeypatch.setattr(FeedForward, "forward", broken)
    with pytest.raises(ValueError, match="cannot be compiled on this machine.*leave compile off"):
        Compiled(JoDiffusion(NET), [2])


def test_a_machine_without_a_compiler_says_so(bundle, monkeypatch):
    def missing(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(models.compiled, "inductor", lambda: missing)
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="leave compile off.*No working C"):
        PairSampler(bundle, SETTINGS)
    torch._dynamo.reset()


def test_compiled_layers_keep_their_names_and_their_copies_are_not_compiled(graphs):
    net = JoDiffusion(NET)
    before = list(net.state_dict())
    Compiled(net, [2])
    assert list(net.state_dict()) == before and len(graphs) == KINDS
    copied = copy.deepcopy(net)
    copied(*models.compiled._blank(copied, 3))
    assert len(graphs) == KINDS
