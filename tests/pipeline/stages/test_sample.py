"""SamplePairs: rows that cannot be made say why, and never take others with them."""

import numpy as np
import pytest

from models.reverse import SamplerSettings, Student
from pipeline.base.errors import ConfigError, DataError
from pipeline.stages.sample import HARMLESS, SamplePairs, chosen_settings
from tests.tiny import SIZE_PX, save_tiny_bundle

SETTINGS = SamplerSettings(steps=2, guidance=1.0, precision="float32", batch_size=4)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    save_tiny_bundle(folder)
    return SamplePairs(str(folder), SETTINGS)


def rows(*prompts: str):
    return {"prompt": np.array(prompts, object), "seed": np.arange(len(prompts)), "pair_id": np.arange(len(prompts))}


def test_a_batch_becomes_pairs(stage):
    batch = stage(rows("a red bag", "a blue dress"))
    assert batch["image"].shape == (2, SIZE_PX, SIZE_PX, 3)
    assert batch["error"].tolist() == ["", ""]
    assert (batch["confidence_mean"] > 0).all()
    assert np.isnan(batch["guidance_difference"]).all(), "which becomes a null: nothing was guided"
    assert batch["pair_id"].tolist() == [0, 1]


def test_empty_and_over_long_prompts_fail_alone(stage):
    batch = stage(rows("a red bag", "  ", "a red bag " * 20))
    assert batch["error"].tolist() == ["", "empty_prompt", "prompt_too_long"]
    assert "tokens" in batch["error_detail"][2]
    assert batch["image"][0].any() and not batch["image"][1:].any()
    assert np.array_equal(batch["image"][0], stage(rows("a red bag"))["image"][0])


def test_a_batch_of_nothing_but_bad_rows(stage):
    assert stage(rows("", " "))["error"].tolist() == ["empty_prompt"] * 2


def test_a_prompt_that_breaks_the_sampler_fails_alone(stage, monkeypatch):
    sample = stage.sampler.__class__.__call__

    def breaking(self, prompts, seeds):
        if any("poison" in prompt for prompt in prompts):
            raise RuntimeError("device-side assert")
        return sample(self, prompts, seeds)

    monkeypatch.setattr(stage.sampler.__class__, "__call__", breaking)
    batch = stage(rows("a red bag", "poison", "a blue dress"))
    assert batch["error"].tolist() == ["", "sampler_failed", ""]
    assert batch["error_detail"][1] == "device-side assert"


def test_latents_that_are_not_finite_are_reported(stage, monkeypatch):
    sample = stage.sampler.__class__.__call__
    monkeypatch.setattr(
        stage.sampler.__class__,
        "__call__",
        lambda self, prompts, seeds: sample(self, prompts, seeds)._replace(finite=np.array([True, False])),
    )
    assert stage(rows("a", "b"))["error"].tolist() == ["", "non_finite_latent"]


@pytest.mark.parametrize("is_sound", [True, False])
@pytest.mark.parametrize("way", ["non_finite_latent", "sampler_failed"])
def test_rows_that_all_fail_are_errors_unless_a_harmless_prompt_fails_too(stage, monkeypatch, is_sound, way):
    """Else a broken device or bundle would turn the whole plan into errors; a batch of bad rows alone would stop it."""
    sample = stage.sampler.__class__.__call__

    def breaking(self, prompts, seeds):
        is_harmless = prompts == [HARMLESS]
        if way == "sampler_failed" and not (is_harmless and is_sound):
            raise RuntimeError("device-side assert")
        made = sample(self, prompts, seeds)
        return made._replace(finite=np.full(len(prompts), is_harmless and is_sound))

    monkeypatch.setattr(stage.sampler.__class__, "__call__", breaking)
    if is_sound:
        assert stage(rows("a red bag", "a blue dress"))["error"].tolist() == [way, way]
        assert stage(rows("a red bag"))["error"].tolist() == [way]
    else:
        with pytest.raises(DataError, match="whatever the prompt is|is NaN or infinite"):
            stage(rows("a red bag", "a blue dress"))


def test_a_distilled_bundle_brings_its_own_way(tmp_path):
    bundle = save_tiny_bundle(tmp_path)
    bundle.student = Student(4, 5.0, "abc")
    bundle.save(tmp_path)
    assert chosen_settings(SamplerSettings(), "own", tmp_path).steps == 4
    with pytest.raises(ConfigError, match="preset fast: the bundle was distilled to 4 evaluations.*give preset own"):
        chosen_settings(SamplerSettings(), "fast", tmp_path)
    with pytest.raises(ConfigError, match=r"leave out sampler\.guidance"):
        chosen_settings(SamplerSettings(guidance=3.0), "own", tmp_path)
