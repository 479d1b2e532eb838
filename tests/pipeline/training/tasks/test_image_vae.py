"""The image VAE learns a little and saves weights that load."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from models.draws import Draws
from models.frozen import image_to_latent, latent_to_image
from pipeline.training.tasks.image_vae import ImageTask, laplacian
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
