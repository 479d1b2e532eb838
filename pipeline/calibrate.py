"""Calibrate: a few sampled pairs -> which layers' outputs of earlier steps a bundle's sampler may take again."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from pydantic import Field

from models.reverse import SamplerSettings
from models.sampler import Pairs, PairSampler
from models.step_cache import SCHEDULE, Recorder, Schedule, chosen, layer_costs
from models.weights import Bundle
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import FileOrFolder, Folder, as_given
from pipeline.prompts.read import read_prompts, without_blank
from pipeline.stages.sample import Preset, chosen_settings
from pipeline.storage.copies import local_copy
from pipeline.storage.publish import write_bytes


class CalibrateConfig(Config):
    """Chooses which outputs of a bundle's network are reused from step to step, and leaves the choice in the bundle for
    `sampler.step_cache`."""

    bundle: Folder
    """Folder or URL of the bundle; gets the file step_cache.json, which is no part of its digest."""
    prompts: FileOrFolder
    """As of jobs.generate."""
    num_pairs: int = Field(32, ge=1)
    """Pairs that are sampled to measure, and as many again to see what the cache changes."""
    sampler: SamplerSettings = SamplerSettings()
    """The reverse process that the choice is for; pairs are made with it in batches of `sampler.batch_size`."""
    preset: Preset = "own"
    """As of jobs.generate: replaces steps, solver and guided steps of `sampler`."""
    share: float = Field(0.6, gt=0, lt=1)
    """Share of the work of attention and feed-forward layers that is still done, at most. Those whose outputs change
    least are reused."""
    seed: int = Field(0, ge=0)
    """Of the noise."""
    device: str = "cpu"
    """"cpu" or "cuda"."""


class Calibration(NamedTuple):
    """What came out: the schedule, and what it does to pairs of other noise than it was measured on.

    `mask_agreement` is the share of pixels of the same class with the cache as without, and `image_difference` the mean
    absolute difference of pictures, 0 to 255."""

    schedule: Schedule
    mask_agreement: float
    image_difference: float


def calibrate(config: CalibrateConfig) -> Calibration:
    """Writes the schedule into the bundle and says what it does.

    Raises:
        ConfigError, DataError, WeightsError: each says what is wrong, where, and how to correct it.
    """
    folder = local_copy(config.bundle)
    bundle = Bundle.load(folder)
    if bundle.student:
        raise ConfigError(
            f"bundle: {as_given(config.bundle)} was distilled to {bundle.student.steps} evaluations, of which none is "
            "like the one before; calibrate the bundle that taught it"
        )
    settings = chosen_settings(replace(config.sampler, step_cache="off"), config.preset, folder)
    prompts = without_blank(read_prompts(config.prompts))["prompt"].to_pylist()
    sampler = PairSampler(bundle, settings, config.device)
    seeds = range(config.seed, config.seed + 2 * config.num_pairs)
    asked = [(prompts[number % len(prompts)], seed) for number, seed in enumerate(seeds)]
    measured, held_out = asked[: config.num_pairs], asked[config.num_pairs :]
    schedule = measure(sampler, measured, config.share)
    cached = PairSampler(replace(bundle, schedule=schedule), replace(settings, step_cache="on"), config.device)
    plain, other = sampled(sampler, held_out), sampled(cached, held_out)
    both = list(zip(plain, other, strict=True))
    rows = [len(one.mask) for one in plain]  # the last batch may be smaller
    found = Calibration(
        schedule,
        float(np.average([(one.mask == two.mask).mean() for one, two in both], weights=rows)),
        float(np.average([np.abs(one.image - two.image.astype(float)).mean() for one, two in both], weights=rows)),
    )
    write_bytes(f"{config.bundle}/{SCHEDULE}", schedule.to_json().encode())
    log.info(
        "calibrate: %s of %s: %.0f %% of layers' outputs are reused, in %d steps of %s; a row takes %.2f MB more; "
        "on %d other pairs %.2f %% of the pixels of masks stay, and pictures differ by %.2f of 255",
        SCHEDULE, as_given(config.bundle), 100 * schedule.share_reused, schedule.steps, schedule.solver,
        schedule.bytes_per_row(bundle.net.config) / 1e6, len(held_out), 100 * found.mask_agreement,
        found.image_difference,
    )  # fmt: skip
    return found


def measure(sampler: PairSampler, rows: list[tuple[str, int]], share: float) -> Schedule:
    """The schedule that leaves `share` of the layers' work, from prompts with their seeds.

    Changes in guided steps count for more: s times the branch with text less s - 1 times the other makes of two errors
    that have nothing to do with each other one that is sqrt(s^2 + (s - 1)^2) times as large.
    """
    settings, net = sampler.settings, sampler.bundle.net
    assert settings.guidance is not None, "a sampler has resolved settings"
    recorder = Recorder(net.transformer)
    sampled(sampler, rows, recorder)
    widened = math.hypot(settings.guidance, settings.guidance - 1)
    changes = {
        place: math.sqrt(np.mean(np.square(values))) * (widened if settings.guided(place[1]) else 1)
        for place, values in recorder.changes.items()
    }
    costs = [[cost * (1 + settings.guided(step)) for cost in layer_costs(net.config)] for step in range(settings.steps)]
    way = (settings.steps, settings.solver, settings.guided_from, settings.guided_to, settings.guidance)
    return Schedule(*way, chosen(changes, costs, round(settings.guided_from * settings.steps), share))


def sampled(sampler: PairSampler, rows: list[tuple[str, int]], recorder: Recorder | None = None) -> list[Pairs]:
    """Pairs of prompts with their seeds, a batch after the other."""
    size = sampler.settings.batch_size
    made = []
    for part in (rows[start : start + size] for start in range(0, len(rows), size)):
        prompts, seeds = zip(*part, strict=True)
        made.append(sampler(prompts, seeds, recorder))
    return made
