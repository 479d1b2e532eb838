"""Weights of others are read from wherever they are, told in full where they do not fit, and never unpickled."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import ResNetBackbone, ResNetConfig
from transformers.utils import logging

from models.pretrained import filled, keep_everything, on_meta, quiet, read_pretrained
from models.weights import WeightsError

CONFIG = ResNetConfig(embedding_size=4, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage4"])


@pytest.fixture(scope="module")
def tensors():
    return {name: value.clone() for name, value in ResNetBackbone(CONFIG).state_dict().items()}


def test_a_file_and_a_folder_hold_the_same(tmp_path):
    values = {"a.weight": torch.ones(2, dtype=torch.float16)}
    save_file(values, tmp_path / "model.safetensors")
    torch.save({"state_dict": {"module.a.weight": values["a.weight"]}}, tmp_path / "other.pth")
    for source in (tmp_path, tmp_path / "model.safetensors", tmp_path / "other.pth"):
        found = read_pretrained(str(source))
        assert list(found) == ["a.weight"] and torch.equal(found["a.weight"], torch.ones(2))


def test_what_is_not_there_or_holds_more_than_tensors(tmp_path):
    torch.save({"state_dict": nn.Linear(1, 1)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="holds more than tensors, which is never unpickled"):
        read_pretrained(str(tmp_path / "net.pth"))
    with pytest.raises(WeightsError, match="no such file of weights; check the path"):
        read_pretrained(str(tmp_path / "none.safetensors"))
    with pytest.raises(WeightsError, match="no such folder; check the path"):
        read_pretrained(str(tmp_path / "none"))


def test_a_network_takes_all_or_nothing_and_says_what_is_wrong(tensors):
    net = filled(ResNetBackbone, CONFIG, dict(tensors), "here")
    assert net.training and all(torch.equal(net.state_dict()[name], value) for name, value in tensors.items())
    name = "encoder.stages.0.layers.0.layer.0.normalization.bias"
    broken = {**tensors, "odd": torch.zeros(1), "embedder.embedder.normalization.bias": torch.zeros(3)}
    del broken[name]
    with pytest.raises(WeightsError) as caught:
        filled(ResNetBackbone, CONFIG, dict(broken), "here")
    text = str(caught.value)
    assert "here does not fit ResNetBackbone" in text and f"missing {name}" in text and "surplus odd" in text
    assert "misshapen embedder.embedder.normalization.bias" in text
    filled(ResNetBackbone, CONFIG, dict(broken), "here", fresh=("encoder.stages.0.", "embedder."), unused=("odd",))


def test_sizes_alone_are_known_as_such_and_buffers_are_kept():
    assert not on_meta()
    with torch.device("meta"):
        assert on_meta()
    net = nn.Module()
    net.register_buffer("places", torch.arange(3), persistent=False)
    keep_everything(net)
    assert list(net.state_dict()) == ["places"]


def test_reports_of_transformers_are_silenced_only_meanwhile():
    before = logging.get_verbosity()
    with quiet():
        assert logging.get_verbosity() == logging.ERROR
    assert logging.get_verbosity() == before
