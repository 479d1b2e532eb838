"""The annotation VAE learns a little and saves weights whose latents are normal."""

from __future__ import annotations

import torch

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.labels import GARMENTS
from models.weights import load_net
from pipeline.tables.pairs import decode_pairs
from pipeline.training.tasks.annotation_vae import AnnotationTask
from tests.pipeline.training.tasks.fabricated import learn, vae_config


def test_annotation_vae(rows, tmp_path):
    evaluation = learn(AnnotationTask(GARMENTS, vae_config("annotation")), rows, tmp_path)
    assert 0 < evaluation.metrics["miou"] <= 1
    assert evaluation.pictures["reconstructions"].shape == (64, 8 * 32, 3)
    vae = load_net(AnnotationVAE, AnnotationVAEConfig, tmp_path)
    masks = torch.from_numpy(decode_pairs({"mask": rows["mask"]})["mask"])
    with torch.no_grad():
        latent = vae.normalize(vae.encode(masks).mean)
    torch.testing.assert_close(latent.mean((0, 2, 3)), torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(latent.std((0, 2, 3)), torch.ones(4), atol=0.05, rtol=0)
