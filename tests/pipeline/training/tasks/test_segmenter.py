"""A segmenter learns a little, saves weights that load, and never predicts what is no class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from models.draws import Draws
from models.labels import GARMENTS
from pipeline.training.tasks.segmenter import SegmenterTask, recoloured
from tests.pipeline.training.tasks.fabricated import learn


def test_segmenter(rows, tmp_path):
    evaluation = learn(SegmenterTask(GARMENTS, "unet_small", 4), rows, tmp_path)
    assert {"miou", "pixel_accuracy", "iou/bag"} <= set(evaluation.metrics)
    assert (tmp_path / "model.safetensors").exists()


def test_what_is_saved_predicts_what_was_trained(rows, tmp_path):
    task = SegmenterTask(GARMENTS, "unet_small", 4)
    images = torch.from_numpy(task.decode(rows)["image"])
    net = task.build().eval()
    task.save(net, {}, tmp_path)
    predicted = task.predict(net, images)
    assert predicted.shape == (24, 32, 32) and predicted.dtype == GARMENTS.dtype and predicted.max() <= 8
    np.testing.assert_array_equal(task.predict(task.load(tmp_path), images), predicted)


def test_where_id_0_is_no_class_it_is_neither_learnt_nor_predicted(rows):
    task = SegmenterTask(replace(GARMENTS, zero="other"), "unet_small", 4)
    plain = SegmenterTask(GARMENTS, "unet_small", 4).decode(rows)["mask"]
    decoded = task.decode(rows)
    np.testing.assert_array_equal(decoded["mask"], np.where(plain == 0, GARMENTS.ignore_index, plain))
    net = task.build().eval()
    with torch.no_grad():
        net.get_parameter("head.bias")[0] = 1e6
    assert task.predict(net, torch.from_numpy(decoded["image"])).min() >= 1


def test_recoloured_pictures_keep_to_their_range_and_repeat_with_their_seed():
    image = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = recoloured(image, Draws(0, 0, range(16)))
    assert found.shape == image.shape and found.abs().max() <= 1
    assert torch.equal(found, recoloured(image, Draws(0, 0, range(16))))
    assert (found - image).abs().amax((1, 2, 3)).min() > 0.01, "each is changed"
