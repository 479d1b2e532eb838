"""Recipes are the published ones; every segmenter follows its own, and its parameters get the rates that it names."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from models.segmenters import SegmenterName, build_segmenter
from pipeline.training.optimisation import Optimisation, optimizers
from pipeline.training.tasks.recipes import recipe_of


def groups(name: SegmenterName, **style):
    """The network's parameters by name, with the peak rate and the decay of each."""
    net = build_segmenter(name, 5)
    (optimizer,) = optimizers(net, recipe_of(name, **style).optimisation(1000))
    names = {id(one): key for key, one in net.named_parameters()}
    return net, {
        names[id(one)]: (group["peak_rate"], group["weight_decay"])
        for group in optimizer.param_groups
        for one in group["params"]
    }


@pytest.mark.parametrize("name", ["unet_small", "deeplabv3_tiny", "mask2former_tiny", "segformer_tiny"])
def test_a_recipe_is_of_parameters_that_exist_and_leaves_none_out(name):
    with torch.device("meta"):
        net = build_segmenter(name, 5)
    (optimizer,) = optimizers(net, recipe_of(name).optimisation(1000))
    given = [id(one) for group in optimizer.param_groups for one in group["params"]]
    assert sorted(given) == sorted(id(one) for one in net.parameters() if one.requires_grad)


@pytest.mark.parametrize("name", get_args(SegmenterName))
def test_every_segmenter_has_a_recipe(name):
    assert recipe_of(name).optimisation(1000).num_examples == 1000


def test_the_small_unet_has_the_rate_that_trials_chose():
    recipe = recipe_of("unet_small")
    chosen = Optimisation(
        num_examples=3200, batch_size=32, learning_rate=5e-3, warmup_examples=640, decay_share=0.8, ema_decay=0.98
    )
    assert recipe.optimisation(3200) == chosen and recipe.augmentation is None
    assert recipe.optimisation(5, 8, 1e-3).num_examples == 8


def test_deeplab_is_mmsegmentations_or_that_of_dataset_diffusion():
    recipe = recipe_of("deeplabv3_r50").optimisation(320_000)
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum, recipe.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
    assert recipe.batch_size == 16 and recipe.num_steps == 20_000 and recipe.gradient_clip > 1e6
    for step in (0, 7000, 19_999):
        expected = (0.01 - 1e-4) * (1 - step / 20_000) ** 0.9 + 1e-4
        assert recipe.learning_rate * recipe.rate(step) == pytest.approx(expected)
    _, found = groups("deeplabv3_tiny")
    assert set(found.values()) == {(0.01, 5e-4)}
    _, found = groups("deeplabv3_tiny", style="dataset_diffusion")
    assert found["backbone.stem.0.weight"] == (1e-5, 1e-4) and found["decode_head.conv_seg.weight"] == (1e-4, 1e-4)
    assert recipe_of("deeplabv3_r50", style="dataset_diffusion").optimisation(80).gradient_clip == 0.01
    with pytest.raises(ValueError, match="one of deeplabv3, not of segformer_b0"):
        recipe_of("segformer_b0", style="dataset_diffusion")


def test_mask2former_decays_neither_norms_nor_queries():
    net, found = groups("mask2former_tiny")
    encoder = "net.model.pixel_level_module.encoder.swin.embeddings."
    assert found[f"{encoder}patch_embeddings.projection.weight"] == (1e-5, 0.05)
    assert found[f"{encoder}norm.weight"] == (1e-5, 0.0)
    assert found["net.class_predictor.weight"] == found["net.class_predictor.bias"] == (1e-4, 0.05)
    assert found["net.model.transformer_module.queries_features.weight"] == (1e-4, 0.0)
    assert found["net.model.pixel_level_module.decoder.level_embed"] == (1e-4, 0.0)
    assert all(decay == 0 for name, (_, decay) in found.items() if "position_bias" in name)
    kept = {name for name, (_, decay) in found.items() if decay == 0}
    norms = [key for key, one in net.named_modules() if isinstance(one, nn.LayerNorm | nn.GroupNorm)]
    assert {f"{key}.weight" for key in norms if "swin.layernorm" not in key} <= kept
    augmentation = recipe_of("mask2former_swin_s").augmentation
    assert augmentation is not None and (augmentation.scale_step, augmentation.class_share) == (0.1, 0.75)


def test_segformer_has_a_faster_head():
    _, found = groups("segformer_tiny")
    assert found["net.decode_head.classifier.weight"] == (pytest.approx(6e-4), 0.01)
    assert found["net.segformer.stages.0.patch_embeddings.proj.weight"] == (6e-5, 0.01)
    assert found["net.decode_head.batch_norm.weight"] == (pytest.approx(6e-4), 0.0)
    recipe = recipe_of("segformer_b4", crop_px=64)
    assert recipe.optimisation(160_000 * 16).warmup_examples == 1500 * 16
    assert recipe.augmentation is not None and recipe.augmentation.crop_px == 64
