"""The annotation VAE learns a little and saves weights whose latents are normal."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.labels import GARMENTS
from models.weights import load_net
from pipeline.tables.pairs import decode_pairs
from pipeline.training.feed import to_tensors
from pipeline.training.tasks.annotation_vae import AnnotationTask, reconstruction, score_annotation_vae
from tests.pipeline.training.tasks.fabricated import learn, vae_config
from tests.tiny import save_pairs


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


def test_masks_that_survive_have_full_scores_and_lost_classes_show_in_the_worst():
    masks = torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8)

    class Losing(torch.nn.Module):
        """Gives masks back, but for one class, which becomes background."""

        def __init__(self, lost):
            super().__init__()
            self.lost = lost

        def forward(self, mask):
            kept = torch.where((mask == self.lost) | (mask == 255), 0, mask.long())
            return 9.0 * torch.nn.functional.one_hot(kept, GARMENTS.num_classes + 1).permute(0, 3, 1, 2)

    kept = reconstruction(Losing(0), masks, GARMENTS)
    assert (kept.metrics["miou"], kept.metrics["worst_iou"]) == (1, 1)
    assert kept.pictures["reconstructions"].shape == (4, 2, 3)
    lost = reconstruction(Losing(2), masks, GARMENTS).metrics
    assert lost["worst_iou"] == 0 and lost["miou"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert lost["loss"] > kept.metrics["loss"]


def test_scores_on_another_set_are_kept_in_the_run(tmp_path):
    task = AnnotationTask(GARMENTS, vae_config("annotation"))
    task.save(task.build(), to_tensors(task.decode(pairs_of(tmp_path / "set"))), tmp_path / "run" / "weights")
    scores = score_annotation_vae(tmp_path / "run", str(tmp_path / "set"))
    assert json.loads((tmp_path / "run" / "test.json").read_text()) == scores
    assert 0 <= scores["worst_iou"] <= scores["miou"] <= 1


def pairs_of(folder):
    table = pq.read_table(save_pairs(folder, 4, split="test") / "shards", columns=["mask"])
    return {"mask": np.array(table["mask"].to_pylist(), object)}
