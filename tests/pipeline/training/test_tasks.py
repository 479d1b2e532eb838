"""Every task learns a little and saves weights that load, in the loop without Ray."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import AutoencoderKL
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.frozen import TextEncoder, image_to_latent, latent_to_image
from models.labels import GARMENTS
from models.weights import load_net
from pipeline.base.errors import DataError
from pipeline.tables.pairs import decode_pairs
from pipeline.training.feed import to_tensors
from pipeline.training.loop import train
from pipeline.training.optimisation import Optimisation
from pipeline.training.state import TrainState
from pipeline.training.tasks.annotation_vae import AnnotationTask
from pipeline.training.tasks.clip import ClipConfig, ClipTask
from pipeline.training.tasks.image_vae import ImageTask
from pipeline.training.tasks.latents import VAEConfig
from pipeline.training.tasks.pictures import cross_entropy
from pipeline.training.tasks.segmenter import SegmenterTask
from tests.tiny import save_pairs


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = save_pairs(tmp_path_factory.mktemp("pairs"), 24)
    table = pq.read_table(folder / "shards", columns=["image", "mask", "prompt"])
    return {name: np.array(table[name].to_pylist(), object) for name in table.column_names}


def recipe(steps: int = 20) -> Optimisation:
    return Optimisation(num_examples=8 * steps, batch_size=8, learning_rate=3e-3, ema_decay=0.5)


def learn(task, rows, tmp_path):
    settings = recipe()
    data = to_tensors(task.decode({name: rows[name] for name in task.columns}))
    torch.manual_seed(0)
    net = task.build()
    state = TrainState(net, settings)

    def batches():
        while True:
            yield {name: values[:8] for name, values in data.items()}

    reports = list(train(task, net, state, batches(), settings))
    with torch.no_grad():
        evaluation = task.evaluate(state.average, data)
        task.save(state.average, data, tmp_path)
    assert reports[-1].losses["loss"][0] < reports[0].losses["loss"][0]
    return evaluation


def vae_config(net: str) -> VAEConfig:
    return VAEConfig.model_validate(
        {
            "run": "a",
            "net": net,
            "train": ["b"],
            "validation": "c",
            "widths": [8, 16],
            "decoder_width": 16,
            "latent_noise": 0.1,
            "optimisation": recipe(),
        }
    )


def text_config() -> ClipConfig:
    return ClipConfig.model_validate(
        {
            "run": "a",
            "train": ["b"],
            "validation": "c",
            "width": 16,
            "image_width": 32,
            "image_size_px": 32,
            "projection": 8,
            "optimisation": recipe(),
        }
    )


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


def test_image_vae(rows, tmp_path):
    evaluation = learn(ImageTask(vae_config("image")), rows, tmp_path)
    assert evaluation.metrics["psnr_db"] > 5
    vae = AutoencoderKL.from_pretrained(tmp_path, use_safetensors=True, low_cpu_mem_usage=False)
    with torch.no_grad():
        latent = image_to_latent(vae, torch.zeros(2, 3, 32, 32))
        assert latent_to_image(vae, latent).shape == (2, 3, 32, 32)


def test_text(rows, tmp_path):
    tokenizer = CLIPTokenizer().train_new_from_iterator([rows["prompt"].tolist()], 600, show_progress=False)
    tokenizer.save_pretrained(tmp_path / "made")
    evaluation = learn(ClipTask(text_config(), str(tmp_path / "made")), rows, tmp_path / "weights")
    assert set(evaluation.metrics) == {"recall_at_1", "recall_at_10"}
    text = TextEncoder(
        AutoTokenizer.from_pretrained(tmp_path / "weights" / "tokenizer"),
        CLIPTextModel.from_pretrained(tmp_path / "weights" / "text_encoder"),
    )
    assert text(["a red bag"]).shape == (1, 24, 16)
    assert CLIPVisionModelWithProjection.from_pretrained(tmp_path / "weights" / "image_encoder").config.image_size == 32


def test_segmenter(rows, tmp_path):
    evaluation = learn(SegmenterTask(GARMENTS, "unet_small", 4), rows, tmp_path)
    assert {"miou", "pixel_accuracy", "iou/bag"} <= set(evaluation.metrics)
    assert (tmp_path / "model.safetensors").exists()


def test_a_batch_without_known_pixels_has_no_loss_instead_of_nan():
    logits = torch.randn(2, 9, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8), ignore_index=255)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_pictures_of_several_sizes_are_refused(rows, tmp_path):
    folder = save_pairs(tmp_path, 2, size_px=48, num_shards=1)
    other = pq.read_table(folder / "shards", columns=["image"])["image"].to_pylist()
    with pytest.raises(DataError, match="pictures of one size"):
        decode_pairs({"image": np.array([rows["image"][0], other[0]], object)})
