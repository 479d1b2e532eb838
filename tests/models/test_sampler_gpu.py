"""What only a GPU can show; skipped elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import models.sampler
from models.reverse import SamplerSettings, reverse_process
from models.sampler import PairSampler
from tests.tiny import save_tiny_bundle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_the_step_loop_never_waits_for_the_device(tmp_path, monkeypatch):
    sampler = PairSampler(save_tiny_bundle(tmp_path), SamplerSettings(steps=5, batch_size=4), "cuda")
    sampler(["a red bag"], [1])

    def watched(*arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return reverse_process(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    expected = sampler(["a red bag"], [2])
    monkeypatch.setattr(models.sampler, "reverse_process", watched)
    assert np.array_equal(sampler(["a red bag"], [2]).image, expected.image)


def test_a_pair_is_the_same_alone_and_in_any_batch(tmp_path):
    sampler = PairSampler(save_tiny_bundle(tmp_path), SamplerSettings(steps=5, batch_size=4), "cuda")
    together = sampler(["a red bag", "a blue dress", "a green boot"], [1, 2, 3])
    alone = sampler(["a blue dress"], [2])
    assert np.array_equal(alone.image[0], together.image[1]) and np.array_equal(alone.mask[0], together.mask[1])
