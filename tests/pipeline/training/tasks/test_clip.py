"""A CLIP learns a little and saves towers and a tokenizer that load."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from models.clip import load_clip
from models.frozen import TextEncoder
from pipeline.training.tasks.clip import ClipConfig, ClipTask, tell_of_long
from tests.pipeline.training.tasks.fabricated import learn, text_config


def test_text(rows, tmp_path):
    tokenizer = CLIPTokenizer().train_new_from_iterator([rows["prompt"].tolist()], 600, show_progress=False)
    tokenizer.save_pretrained(tmp_path / "made")
    evaluation = learn(ClipTask(text_config(), str(tmp_path / "made")), rows, tmp_path / "weights")
    assert set(evaluation.metrics) == {"recall_at_1", "recall_at_10"}
    text = TextEncoder(
        AutoTokenizer.from_pretrained(tmp_path / "weights" / "tokenizer"),
        CLIPTextModel.from_pretrained(tmp_path / "weights" / "text_encoder"),
    )
    clip = load_clip(str(tmp_path / "weights" / "clip"))
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    with torch.no_grad():
        seen, read = clip.pictures(image), clip.texts(["a red bag", "a boot"])
        torch.testing.assert_close(seen.norm(dim=1), torch.ones(2))
        torch.testing.assert_close(read.norm(dim=1), torch.ones(2))
    assert text(["a red bag"]).shape == (1, 24, 16)
    assert CLIPVisionModelWithProjection.from_pretrained(tmp_path / "weights" / "image_encoder").config.image_size == 32


def test_a_batch_is_never_cut_into_parts_that_hold_no_contrast():
    values = text_config().model_dump()
    with pytest.raises(ValidationError, match=r"optimisation\.accumulation: prompts are told from the others of their"):
        ClipConfig.model_validate({**values, "optimisation": {**values["optimisation"], "accumulation": 2}})


def test_prompts_that_are_cut_off_are_told(caplog):
    prompts = ["a red bag", "a boot beside a shirt and a coat and trousers", None]
    tokenizer = CLIPTokenizer().train_new_from_iterator([prompts[:2]], 600, show_progress=False)
    tokenizer.model_max_length = 1000
    tell_of_long(prompts, tokenizer)
    assert not caplog.text
    tokenizer.model_max_length = 6
    tell_of_long(prompts, tokenizer)
    assert "1 of 3 prompts have more than 6 tokens" in caplog.text and "raise num_tokens" in caplog.text
