"""SegFormer: its sizes, the size of its answers, and others' weights in it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from transformers import SegformerConfig, SegformerForImageClassification, SegformerForSemanticSegmentation

from models.segformer import SIZES
from models.segmenter import grown, normalised
from models.segmenters import SegmenterName, build_segmenter
from models.weights import WeightsError

CONFIG = SegformerConfig(
    depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, num_labels=5
)


@pytest.mark.parametrize(("size", "millions"), [("b0", 3.8), ("b1", 13.7), ("b2", 27.5), ("b3", 47.3), ("b4", 64.1)])
def test_sizes_are_the_published_ones(size, millions):
    with torch.device("meta"):
        net: Any = build_segmenter(cast(SegmenterName, f"segformer_{size}"), 150)
    assert round(sum(one.numel() for one in net.parameters()) / 1e6, 1) == millions


def test_a_whole_network_gives_what_it_gives_in_transformers(tmp_path):
    torch.manual_seed(1)
    theirs = SegformerForSemanticSegmentation(CONFIG).eval()
    theirs.save_pretrained(tmp_path)
    image = torch.rand(2, 3, 40, 56) * 2 - 1
    with torch.no_grad():
        found: Any = build_segmenter("segformer_tiny", 5, pretrained=str(tmp_path)).eval()(image)
        torch.testing.assert_close(found, grown(theirs(pixel_values=normalised(image)).logits, image))
    other: Any = build_segmenter("segformer_tiny", 7, pretrained=str(tmp_path))
    assert torch.equal(other.net.decode_head.linear_fuse.weight, theirs.decode_head.linear_fuse.weight)
    assert other.net.decode_head.classifier.out_channels == 7


def test_an_encoder_alone(tmp_path):
    torch.manual_seed(1)
    theirs = SegformerForImageClassification(CONFIG)
    theirs.save_pretrained(tmp_path)
    found: Any = build_segmenter("segformer_tiny", 5, pretrained=str(tmp_path))
    for name, value in theirs.segformer.state_dict().items():
        assert torch.equal(found.net.segformer.state_dict()[name], value)
    with pytest.raises(WeightsError, match="does not fit SegformerForSemanticSegmentation"):
        build_segmenter("segformer_b0", 5, pretrained=str(tmp_path))


def test_the_tiny_one_is_as_the_test_says():
    assert (SIZES["tiny"].widths, SIZES["tiny"].head) == ((8, 8, 16, 16), 16)
