"""A segmenter learns a little, saves weights that load, and never predicts what is no class."""

from __future__ import annotations

from models.labels import GARMENTS
from pipeline.training.tasks.segmenter import SegmenterTask
from tests.pipeline.training.tasks.fabricated import learn


def test_segmenter(rows, tmp_path):
    evaluation = learn(SegmenterTask(GARMENTS, "unet_small", 4), rows, tmp_path)
    assert {"miou", "pixel_accuracy", "iou/bag"} <= set(evaluation.metrics)
    assert (tmp_path / "model.safetensors").exists()
