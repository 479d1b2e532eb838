"""What tasks share: pictures are mirrored together, and unknown pixels have no loss."""

from __future__ import annotations

import math

import pytest
import torch

from models.draws import Draws
from pipeline.training.tasks.pictures import chunks, cross_entropy, mirrored, to_float_image


def test_a_batch_without_known_pixels_has_no_loss_instead_of_nan():
    logits = torch.randn(2, 9, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8), ignore_index=255)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_the_loss_is_the_mean_over_known_pixels():
    logits = torch.tensor([[[[2.0, 0.0, 5.0]], [[0.0, 0.0, 1.0]]]])
    loss = cross_entropy(logits, torch.tensor([[[0, 1, 255]]], dtype=torch.uint8), ignore_index=255)
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert loss.item() == pytest.approx(expected)


def test_all_pictures_of_a_row_are_mirrored_together_or_not_at_all():
    num = 64
    mask = torch.arange(6).view(1, 2, 3).repeat(num, 1, 1)
    found = mirrored({"image": mask[..., None].expand(num, 2, 3, 3), "mask": mask}, Draws(0, 0, range(num)))
    flipped = (found["mask"] == mask.flip(2)).flatten(1).all(1)
    assert 16 < flipped.sum() < 48
    assert torch.equal(found["mask"][~flipped], mask[~flipped])
    assert torch.equal(found["image"], found["mask"][..., None].expand(num, 2, 3, 3))


def test_chunks_are_as_large_as_memory_allows_and_lose_no_picture():
    small, large = torch.zeros(130, 64, 64, 3), torch.zeros(2, 1024, 768)
    assert [len(part) for part in chunks(small)] == [64, 64, 2]
    assert [len(part) for part in chunks(large)] == [1, 1], "one at least"


def test_bytes_become_numbers_from_minus_one_to_one():
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3)
    found = to_float_image(image)
    assert found.shape == (1, 3, 1, 1) and found.flatten().tolist() == pytest.approx([-1, 1, -0.6])
