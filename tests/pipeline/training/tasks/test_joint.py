"""The joint network is trained on latents that fit it and the encoders beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.diffusion import Diffusion
from models.jodiffusion import JoDiffusionConfig
from pipeline.base.errors import ConfigError
from pipeline.encode import collect_encoders
from pipeline.training.loop import Optimisation
from pipeline.training.tasks.joint import JointConfig, check_latents
from tests.pipeline.fabricated import LATENT_SHAPES, encode_config, save_latents, train_other_encoders
from tests.tiny import tiny_encoders


@pytest.fixture
def config(tmp_path):
    return encode_config(tmp_path)


def test_stale_latents_are_refused_by_the_training(config):
    made_by = collect_encoders(config).digest
    save_latents(config, ["a"], made_by)
    folder = str(config.folder)
    net = JoDiffusionConfig(latent_size=4, num_text_tokens=12, text_width=16, clip_image_width=8)
    joint = JointConfig(
        run="joint",
        train=(folder,),
        validation=folder,
        net=net,
        optimisation=Optimisation(num_examples=1, batch_size=1),
    )
    assert check_latents(joint) == LATENT_SHAPES
    for key, value in (("net", replace(net, mask_time=True)), ("diffusion", Diffusion(mask_time="independent"))):
        with pytest.raises(ConfigError, match="need both --net.mask-time and --diffusion.mask-time independent"):
            check_latents(joint.model_copy(update={key: value}))

    train_other_encoders(config)
    tiny_encoders().save(config.folder / "encoders")
    (config.folder / "encoders" / "annotation_vae" / "model.safetensors").write_bytes(b"another")

    with pytest.raises(ConfigError, match=f"its latents are of encoders {made_by}, but those in its folder encoders/"):
        check_latents(joint)
