"""The image VAE learns a little and saves weights that load."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from models.draws import Draws
from models.frozen import image_to_latent, latent_to_image
from pipeline.base.errors import ConfigError
from pipeline.training.tasks.image_vae import ImageTask, laplacian, texture_error
from tests.pipeline.training.tasks.fabricated import learn, vae_config


def test_image_vae(rows, tmp_path):
    evaluation = learn(ImageTask(vae_config("image")), rows, tmp_path)
    assert evaluation.metrics["psnr_db"] > 5
    vae = AutoencoderKL.from_pretrained(tmp_path, use_safetensors=True, low_cpu_mem_usage=False)
    with torch.no_grad():
        latent = image_to_latent(vae, torch.zeros(2, 3, 32, 32))
        assert latent_to_image(vae, latent).shape == (2, 3, 32, 32)


def test_edges_weigh_in_the_loss_where_they_are_asked_for():
    plain, sharp = (ImageTask(vae_config("image", edge_weight=weight)) for weight in (0.0, 0.5))
    torch.manual_seed(0)
    net = plain.build()
    batch = {"image": torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)}
    losses = [task.loss(net, batch, Draws(0, 0, range(4)))[0].item() for task in (plain, sharp)]
    assert losses[1] > losses[0]
    slope = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 3, 8, 8)
    assert not laplacian(slope).any() and laplacian(slope**2).unique().tolist() == [2.0]


def test_texture_asks_for_roughness_wherever_it_lies():
    torch.manual_seed(0)
    rough, other = 0.3 * torch.randn(2, 2, 3, 32, 32)
    flat = torch.zeros_like(rough)
    assert texture_error(rough, rough) == 0
    # A squared error takes what is blurred for twice as good as other roughness of the same strength.
    assert (flat - rough).square().mean() < 0.6 * (other - rough).square().mean()
    assert texture_error(other, rough) < 0.3 * texture_error(flat, rough)


def test_a_decoder_is_trained_on_while_its_latents_stay(rows, tmp_path):
    learn(ImageTask(vae_config("image", latent_channels=3)), rows, tmp_path / "old")
    old = AutoencoderKL.from_pretrained(tmp_path / "old", low_cpu_mem_usage=False)
    task = ImageTask(vae_config("image", decoder_of=str(tmp_path / "old"), texture_weight=0.5))
    assert task.judged_by == ("loss", 1)
    evaluation = learn(task, rows, tmp_path / "new")
    new = AutoencoderKL.from_pretrained(tmp_path / "new", low_cpu_mem_usage=False)
    image = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    with torch.no_grad():
        latents = [image_to_latent(one, image) for one in (old, new)]
        assert torch.equal(*latents)
        assert not torch.allclose(latent_to_image(old, latents[0]), latent_to_image(new, latents[0]))
    assert evaluation.metrics["loss"] > 0
    assert str(tmp_path) not in (tmp_path / "new" / "config.json").read_text()


def test_what_is_of_images_alone_is_refused_for_masks_and_so_is_no_vae(tmp_path):
    with pytest.raises(ValueError, match="are of --net image"):
        vae_config("annotation", texture_weight=0.1)
    config = vae_config("image", decoder_of=str(tmp_path), train=[str(tmp_path)], validation=str(tmp_path))
    with pytest.raises(ConfigError, match="decoder_of: .*holds no config.json"):
        config.check_inputs()
