"""SamplePairs: rows that cannot be made say why, and never take others with them."""

import numpy as np
import pytest

from models.reverse import SamplerSettings
from pipeline.stages.pack import pack_pairs
from pipeline.stages.sample import SamplePairs
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


def test_packing_encodes_good_rows_and_empties_bad_ones(stage):
    packed = pack_pairs(stage(rows("a red bag", "")), keep_confidence=True)
    assert packed["image"][0].startswith(b"\x89PNG") and packed["mask"][0].startswith(b"\x89PNG")
    assert packed["image"][1] == packed["mask"][1] == packed["confidence"][1] == b""
    assert sum(packed["class_pixels"][0]) == SIZE_PX**2
    assert packed["height"].tolist() == [SIZE_PX] * 2
