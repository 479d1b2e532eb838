"""Captions are what transformers gives for one picture alone, whatever else is in the batch."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoProcessor,
    Blip2ForConditionalGeneration,
)

from models.captioner import Captioner, check_model
from models.weights import WeightsError
from tests.models.fabricated import save_tiny_captioner


def pictures(num: int) -> list[np.ndarray]:
    """Of different sizes."""
    return [np.random.default_rng(seed).integers(0, 255, (20 + seed, 40, 3), np.uint8) for seed in range(num)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_captioner(tmp_path_factory.mktemp("blip2"))


@pytest.fixture(scope="module")
def captioner(folder):
    return Captioner.load(str(folder), precision="float32")


@pytest.mark.parametrize("instruction", ["", "a photo of"])
def test_blip2_says_what_transformers_says(folder, captioner, instruction):
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    net = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    images = pictures(4)
    wanted = []
    for image in images:
        inputs = processor(images=image, text=[instruction] if instruction else None, return_tensors="pt")
        text = processor.decode(net.generate(**inputs, max_new_tokens=8, do_sample=False)[0], skip_special_tokens=True)
        assert text.startswith(instruction)
        wanted.append([" ".join(text.removeprefix(instruction).split())])
    found = captioner(images, seeds=[0] * 4, max_new_tokens=8, instruction=instruction)
    assert found == wanted
    assert len({text for (text,) in found}) > 1, "the test should see a difference between pictures"


def test_a_caption_depends_on_its_picture_and_seed_alone(captioner):
    images = pictures(4)
    together = captioner(images, seeds=[5, 6, 7, 8], num_captions=3, max_new_tokens=8)
    alone = [
        captioner([image], seeds=[seed], num_captions=3, max_new_tokens=8)[0]
        for seed, image in zip([5, 6, 7, 8], images, strict=True)
    ]
    assert together == alone
    other = captioner(images, seeds=[1, 2, 3, 4], num_captions=3, max_new_tokens=8)
    assert [row[0] for row in other] == [row[0] for row in together], "the first is greedy"
    assert [row[1:] for row in other] != [row[1:] for row in together]
    assert len({*together[0]}) == 3
    assert captioner([], seeds=[]) == []


@pytest.mark.parametrize("kind", ["blip", "git", "vision-encoder-decoder"])
def test_other_captioners(tmp_path, kind):
    captioner = Captioner.load(str(save_tiny_captioner(tmp_path, kind)))
    assert {parameter.dtype for parameter in captioner.net.parameters()} == {torch.bfloat16}
    captions = captioner(pictures(2), seeds=[0, 1], num_captions=2, max_new_tokens=6)
    assert [len(row) for row in captions] == [2, 2] and any(text for row in captions for text in row)
    assert captions == captioner(pictures(2), seeds=[0, 1], num_captions=2, max_new_tokens=6)
    if kind == "blip":
        begun = captioner(pictures(2), seeds=[0, 1], max_new_tokens=6, instruction="A photo of")
        assert not any("photo of" in text for (text,) in begun)
    else:
        with pytest.raises(WeightsError, match=f"{kind}, which takes no instruction"):
            check_model(str(tmp_path), instruction="a photo of")


def test_pictures_are_prepared_without_torchvision(captioner):
    assert type(captioner.image_processor).__name__ == "BlipImageProcessorPil"
    assert "torchvision" not in sys.modules


def test_what_is_no_captioner_is_refused(tmp_path, folder):
    for wrong in (tmp_path, tmp_path / "nowhere", "somebody/nothing"):
        with pytest.raises(WeightsError, match=f"{wrong}: cannot be read as .* `hf download"):
            check_model(str(wrong))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(WeightsError, match="is a clip, which is not a captioner; known are blip-2"):
        Captioner.load(str(tmp_path))
    assert check_model(str(folder)) == ""


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path, folder, monkeypatch):
    commit, repository = "a1" * 20, tmp_path / "models--someone--captioner"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert check_model("someone/captioner") == check_model("someone/captioner", commit) == commit
    with pytest.raises(WeightsError, match="someone/captioner: cannot be read as a model on the Hugging Face hub"):
        check_model("someone/captioner", "v2")


def test_weights_that_would_be_unpickled_or_drawn_are_refused(tmp_path, folder):
    for file in folder.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be read as a folder with a captioner in safetensors"):
        Captioner.load(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="not complete, missing vision_model"):
        Captioner.load(str(tmp_path))
