"""The schedule follows from a few sampled pairs and lies in the bundle, where the sampler finds it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.reverse import SamplerSettings, Student
from models.weights import Bundle, read_facts
from pipeline.base.errors import ConfigError
from pipeline.calibrate import CalibrateConfig, calibrate
from pipeline.stages.sample import SamplePairs, chosen_settings
from tests.tiny import save_tiny_bundle

SETTINGS = SamplerSettings(steps=6, solver="dpmsolver++2", guided_to=0.5, precision="float32", batch_size=4)


@pytest.fixture
def config(tmp_path) -> CalibrateConfig:
    save_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "prompts.txt").write_text("a red bag\n\na blue dress\n")
    return CalibrateConfig.model_validate(
        {
            "bundle": str(tmp_path / "bundle"),
            "prompts": str(tmp_path / "prompts.txt"),
            "num_pairs": 4,
            "sampler": SETTINGS,
            "share": 0.7,
        }
    )


def test_a_bundle_gets_a_schedule_for_the_settings_that_were_asked_for(config):
    found = calibrate(config)
    kept = read_facts(config.bundle).schedule
    assert kept == found.schedule == calibrate(config).schedule, "the same again"
    assert (kept.steps, kept.solver, kept.guided_to, kept.guidance) == (6, "dpmsolver++2", 0.5, 2.0)
    assert 0.2 < kept.share_reused < 0.6 and 0 < found.mask_agreement <= 1

    settings = SamplerSettings(**{**vars(SETTINGS), "step_cache": "on"})
    chosen = chosen_settings(settings, "own", config.bundle)
    assert chosen.step_cache == kept.digest
    assert SamplePairs(config.bundle, chosen).sampler.settings == chosen
    with pytest.raises(ConfigError, match=r"schedule is for steps 6, not 12; sample so"):
        chosen_settings(settings, "fast", config.bundle)
    other = SamplerSettings(**{**vars(chosen), "step_cache": "0" * 16})
    with pytest.raises(ConfigError, match="asked for schedule 0000000000000000"):
        SamplePairs(config.bundle, other)


def test_every_pair_counts_alike_in_whatever_batch(config):
    by_one, by_four = (
        calibrate(config.model_copy(update={"num_pairs": 5, "sampler": replace(SETTINGS, batch_size=size)}))
        for size in (1, 4)
    )
    assert by_one.schedule == by_four.schedule
    assert by_four.mask_agreement == pytest.approx(by_one.mask_agreement, abs=1e-3)
    assert by_four.image_difference == pytest.approx(by_one.image_difference, rel=1e-2)


def test_a_student_is_refused(config):
    bundle = Bundle.load(config.bundle)
    bundle.student = Student(4, 2.0, "abc")
    bundle.save(config.bundle)
    with pytest.raises(ConfigError, match="calibrate the bundle that taught it"):
        calibrate(config)
