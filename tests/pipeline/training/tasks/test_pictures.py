"""What tasks share: pictures are mirrored together, and unknown pixels have no loss."""

from __future__ import annotations

import torch

from pipeline.training.tasks.pictures import cross_entropy


def test_a_batch_without_known_pixels_has_no_loss_instead_of_nan():
    logits = torch.randn(2, 9, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8), ignore_index=255)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()
