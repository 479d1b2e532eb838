"""Networks that name pictures see what transformers' own processors show them; others are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification

from models.picture_classifier import SETTINGS, load_picture_classifier, names_of
from models.weights import WeightsError

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=32, patch_size=8, id2label={0: "normal", 1: "nsfw"}, label2id={})
    net = ViTForImageClassification(config).eval()
    net.save_pretrained(tmp_path)
    settings = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    return tmp_path, net


def test_a_picture_is_scaled_normalised_and_named(saved):
    folder, net = saved
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), np.uint8)
    seen = np.asarray(Image.fromarray(image[0]).resize((32, 32), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy((seen / 255 - 0.5) / 0.25).permute(2, 0, 1)[None].float()
    classifier = load_picture_classifier(str(folder))
    with torch.no_grad():
        expected = net(pixel_values=pixels).logits.softmax(1)
        torch.testing.assert_close(classifier(torch.from_numpy(image)), expected, atol=0.01, rtol=0.01)
    assert names_of(str(folder)) == ["normal", "nsfw"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(24, (24, 24)), ({"shortest_edge": 28}, (28, 28)), ({"height": 20, "width": 40}, (20, 40))],
)
def test_sizes_as_processors_write_them(saved, size, expected):
    folder, _ = saved
    (folder / SETTINGS).write_text(json.dumps({"size": size, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}))
    assert load_picture_classifier(str(folder)).size_px == expected


@pytest.mark.parametrize("content", [None, "{", "{}", '{"size": 32, "image_mean": [0], "image_std": [1]}'])
def test_what_says_nothing_of_its_pictures_is_refused(saved, content):
    folder, _ = saved
    (folder / SETTINGS).unlink() if content is None else (folder / SETTINGS).write_text(content)
    with pytest.raises(WeightsError, match=f"{SETTINGS}: missing or without size"):
        load_picture_classifier(str(folder))


@pytest.mark.parametrize("content", [None, "{", '{"a": 1}'])
def test_a_folder_of_something_else_is_refused(saved, content):
    folder, _ = saved
    (folder / "config.json").unlink() if content is None else (folder / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="of no network that transformers knows"):
        names_of(str(folder))


def test_a_network_that_names_no_pictures_is_refused(tmp_path):
    BertModel(BertConfig(**SIZES, vocab_size=99)).save_pretrained(tmp_path)
    for load in (load_picture_classifier, names_of):
        with pytest.raises(WeightsError, match="a bert, which does not name pictures"):
            load(str(tmp_path))
