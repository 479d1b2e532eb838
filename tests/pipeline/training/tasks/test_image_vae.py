"""The image VAE learns a little and saves weights that load."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from models.frozen import image_to_latent, latent_to_image
from pipeline.training.tasks.image_vae import ImageTask
from tests.pipeline.training.tasks.fabricated import learn, vae_config


def test_image_vae(rows, tmp_path):
    evaluation = learn(ImageTask(vae_config("image")), rows, tmp_path)
    assert evaluation.metrics["psnr_db"] > 5
    vae = AutoencoderKL.from_pretrained(tmp_path, use_safetensors=True, low_cpu_mem_usage=False)
    with torch.no_grad():
        latent = image_to_latent(vae, torch.zeros(2, 3, 32, 32))
        assert latent_to_image(vae, latent).shape == (2, 3, 32, 32)
