"""The joint network is trained on latents that fit it and the encoders beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.diffusion import Diffusion
from models.draws import Draws
from models.jodiffusion import JoDiffusionConfig
from pipeline.base.errors import ConfigError
from pipeline.encode import collect_encoders
from pipeline.tables.conform import object_column
from pipeline.training.loop import Optimisation
from pipeline.training.tasks.joint import JointConfig, JointTask, check_latents, with_initial
from tests.pipeline.fabricated import LATENT_SHAPES, encode_config, save_latents, train_other_encoders
from tests.pipeline.training.fabricated import BATCH, NET, SHAPES, TASK, latent_batches
from tests.tiny import SIZE_PX, save_pairs, save_tiny_bundle, tiny_encoders


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

    with pytest.raises(ConfigError, match="holds no latents; give runs of jobs.encode"):
        check_latents(joint.model_copy(update={"validation": str(save_pairs(config.folder.parent / "pairs", 3))}))
    other = encode_config(config.folder.parent / "other")
    save_latents(other, ["b"], made_by, mask_latent=(4, 2, 2))
    with pytest.raises(ConfigError, match="latents of different shapes cannot be mixed"):
        check_latents(joint.model_copy(update={"train": (folder, str(other.folder))}))

    train_other_encoders(config)
    tiny_encoders().save(config.folder / "encoders")
    (config.folder / "encoders" / "annotation_vae" / "model.safetensors").write_bytes(b"another")

    with pytest.raises(ConfigError, match=f"its latents are of encoders {made_by}, but those in its folder encoders/"):
        check_latents(joint)


def small_config(**changes) -> JointConfig:
    required = {"run": "joint", "train": ("a",), "validation": "a", "optimisation": Optimisation(num_examples=1)}
    return JointConfig(**{**required, **changes})


def test_a_training_that_starts_from_a_bundle_takes_its_sizes_unless_others_are_given(tmp_path):
    assert with_initial(small_config()) == small_config()
    bundle = save_tiny_bundle(tmp_path)
    found = with_initial(small_config(initial=str(tmp_path)))
    assert (found.net, found.diffusion, found.image_size_px) == (bundle.net.config, bundle.diffusion, SIZE_PX)
    given = with_initial(small_config(initial=str(tmp_path), image_size_px=64, net={"pre_norm": True}))
    assert (given.net, given.diffusion, given.image_size_px) == (
        replace(bundle.net.config, pre_norm=True), bundle.diffusion, 64,
    )  # fmt: skip


def test_one_key_of_the_noise_process_leaves_the_others_as_the_bundle_has_them(tmp_path):
    flow = Diffusion(objective="flow", time_shift=3.0, text_noise="dropout")
    replace(save_tiny_bundle(tmp_path / "tiny"), diffusion=flow).save(tmp_path / "flow")
    initial = str(tmp_path / "flow")

    found = with_initial(small_config(initial=initial, diffusion={"text_dropout": 0.2}))

    assert found.diffusion == replace(flow, text_dropout=0.2)
    with pytest.raises(ConfigError, match=r"diffusion\.objective: .* predicts as flow says, and v is asked for"):
        with_initial(small_config(initial=initial, diffusion={"objective": "v"}))
    with pytest.raises(ConfigError, match="latent_size 4 must be a multiple of patch_size 64"):
        with_initial(small_config(initial=initial, net={"patch_size": 64}))


def test_a_preview_with_a_step_cache_is_refused_before_the_training():
    with pytest.raises(ValidationError, match=r"preview\.step_cache: a network in training has no schedule"):
        small_config(preview={"step_cache": "on"})


def test_it_begins_with_the_weights_of_the_bundle(tmp_path):
    bundle = save_tiny_bundle(tmp_path)
    task = JointTask(with_initial(small_config(initial=str(tmp_path))), "", str(tmp_path), SHAPES)
    for name, value in task.build().state_dict().items():
        assert torch.equal(value, bundle.net.state_dict()[name]), name


def test_latents_are_decoded_to_their_shapes():
    numbers = {name: np.arange(2 * np.prod(shape), dtype="<f2").reshape(2, *shape) for name, shape in SHAPES.items()}
    batch = {name: object_column([row.tobytes() for row in value]) for name, value in numbers.items()}
    decoded = TASK.decode(batch)
    assert TASK.columns == (*SHAPES, "mask_weight")
    assert decoded["mask_weight"].tolist() == np.ones((2, 4, 4)).tolist(), "latents of an older release have no column"
    for name, value in numbers.items():
        np.testing.assert_array_equal(decoded[name], value)


def test_pictures_without_masks_and_cells_without_classes_have_no_weight():
    latents = {name: object_column([np.zeros(shape, "<f2").tobytes()] * 3) for name, shape in SHAPES.items()}
    latents["mask_latent"][1] = b""
    weight = np.array([[1, 0.5, 0, 0]] * 4, "<f2")

    decoded = TASK.decode({**latents, "mask_weight": object_column([None, b"", weight.tobytes()])})

    assert decoded["mask_weight"].tolist() == [np.ones((4, 4)).tolist(), np.zeros((4, 4)).tolist(), weight.tolist()]
    assert decoded["mask_latent"].shape == (3, *SHAPES["mask_latent"]) and not decoded["mask_latent"][1].any()


def test_errors_are_logged_apart_by_their_times():
    _, parts = TASK.loss(TASK.build(), next(latent_batches(range(BATCH))), Draws(0, 0, range(BATCH)))
    for name in ("image", "clip_image", "mask", "text"):
        buckets = torch.stack([value for key, value in parts.items() if key.startswith(f"{name}/")])
        assert (~buckets.isnan()).sum(0).tolist() == [1] * BATCH, "each row is in one bucket"
        assert torch.equal(buckets.nansum(0), parts[name])


def test_judging_gives_the_same_losses_whenever_it_is_asked():
    config = small_config(net=NET, preview_prompts=("",))
    task, held_out = JointTask(config, "", "", SHAPES), next(latent_batches(range(BATCH)))
    torch.manual_seed(0)
    net = task.build()
    with torch.no_grad():
        first, second = task.evaluate(net, held_out), task.evaluate(net, held_out)
    assert first == second and first.pictures == {}, "no prompts, no samples"
    assert first.metrics["loss"] > 0 and {"image", "mask", "clip_image"} <= set(first.metrics)
