"""The segmenter that proves a set: it sees every pixel and learns at once what a picture shows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from models.segmenters import build_segmenter


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 48), (64, 16)])
def test_every_pixel_gets_a_score_for_every_class(height, width):
    net = build_segmenter("unet_small", 5, width=4)
    assert net(torch.zeros(2, 3, height, width)).shape == (2, 5, height, width)


def test_a_row_is_segmented_alike_alone_and_in_a_batch():
    torch.manual_seed(0)
    net, images = build_segmenter("unet_small", 3, width=4).eval(), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(images)[1], net(images[1:2])[0])


def test_it_learns_where_a_square_is():
    torch.manual_seed(0)
    net = build_segmenter("unet_small", 2, width=8)
    mask = torch.zeros(4, 32, 32, dtype=torch.long)
    for row, place in enumerate((0, 8, 12, 16)):
        mask[row, place : place + 12, place : place + 12] = 1
    image = (mask[:, None] * 2.0 - 1).expand(4, 3, 32, 32)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(net(image), mask).backward()
        optimizer.step()
    with torch.no_grad():
        assert (net(image).argmax(1) == mask).float().mean() > 0.95


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(ValueError, match="no segmenter 'unet_huge'; there are unet_small, "):
        build_segmenter("unet_huge", 2)  # type: ignore[arg-type]
