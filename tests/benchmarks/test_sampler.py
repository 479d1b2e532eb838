"""The sampler's benchmark runs both ways and counts as it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sampler import evaluation_flops, half_reused, network_seconds, ours, reference
from models.jodiffusion import JoDiffusionConfig, Joint
from models.reverse import SamplerSettings, Student, with_preset
from tests.tiny import save_tiny_bundle

CPU = torch.device("cpu")


def test_published_size_costs_what_the_paper_s_arithmetic_gives():
    assert evaluation_flops(JoDiffusionConfig()) == pytest.approx(4.04e12 + 0.86e12, rel=0.005)


def test_counted_operations_are_those_that_run(tmp_path):
    bundle = save_tiny_bundle(tmp_path)
    config = bundle.net.config
    latent = torch.randn(1, 4, config.latent_size, config.latent_size)
    noisy = Joint(latent, torch.randn(1, 1, config.clip_image_width), latent)
    text, time = torch.randn(1, config.num_text_tokens, config.text_width), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:
        bundle.net.transformer(torch.randn(1, 4 + config.num_text_tokens + 2 * config.num_patches, config.width))
    assert counter.get_total_flops() == evaluation_flops(config)
    bundle.net(noisy, text, time, time)


def test_every_way_is_measured(tmp_path):
    bundle = save_tiny_bundle(tmp_path)
    settings = SamplerSettings(batch_size=2)
    rows = [reference(bundle, CPU, 1)] + [
        ours(bundle, CPU, with_preset(settings, preset), preset, 2) for preset in ("faithful", "fast")
    ]
    rows.append(ours(*half_reused(bundle, with_preset(settings, "fast"), CPU), "half", 2))
    student = replace(bundle, student=Student(4, 2.0, ""))
    rows.append(ours(student, CPU, settings, "distilled", 2))
    assert [row.evaluations for row in rows] == [100, 100, 18, 18, 4]
    assert all(row.seconds_per_pair > 0 and row.memory_gib > 0 for row in rows)
    taken = network_seconds(bundle, CPU, 4)
    assert taken.seconds > 0 and taken.graphs == 0
