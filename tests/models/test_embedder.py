"""CLIP, its image tower and DINOv2 embed pictures as transformers' own classes do; other networks are refused."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from models.embedder import DINO_PX, MEAN, STD, load_embedder
from models.frozen import CLIP_MEAN, CLIP_STD
from models.weights import WeightsError

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 32, "patch_size": 8}


@pytest.fixture
def image():
    return torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalised(image, mean, std):
    return (image.permute(0, 3, 1, 2) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.parametrize("whole", [True, False])
def test_clip_sees_what_its_image_tower_sees(tmp_path, image, whole):
    torch.manual_seed(0)
    if whole:
        config = CLIPConfig(
            text_config={**SIZES, "vocab_size": 99, "projection_dim": 8},
            vision_config={**VISION, "projection_dim": 8},
            projection_dim=8,
        )
        net = CLIPModel(config).eval()
    else:
        net = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=8)).eval()
    net.save_pretrained(tmp_path)
    pixels = normalised(image, CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        found = load_embedder(str(tmp_path))(image)
        if whole:
            expected = net.visual_projection(net.vision_model(pixel_values=pixels).pooler_output)
        else:
            expected = net(pixel_values=pixels).image_embeds
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_dinov2_sees_pictures_at_its_size(tmp_path):
    torch.manual_seed(0)
    net = Dinov2Model(Dinov2Config(**SIZES, image_size=DINO_PX, patch_size=56)).eval()
    net.save_pretrained(tmp_path)
    image = torch.randint(0, 256, (1, DINO_PX, DINO_PX, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = net(pixel_values=normalised(image, MEAN, STD)).pooler_output
        torch.testing.assert_close(load_embedder(str(tmp_path))(image), expected, atol=1e-4, rtol=1e-4)


def test_another_network_and_a_missing_one_are_told(tmp_path):
    BertModel(BertConfig(**SIZES, vocab_size=99)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="a bert, which does not embed pictures here; give CLIP"):
        load_embedder(str(tmp_path))
    with pytest.raises(WeightsError, match="nowhere"):
        load_embedder(str(tmp_path / "nowhere"))
