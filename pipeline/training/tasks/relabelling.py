"""Masks that are drawn anew while a segmenter learns, by the average of its own weights (SENSE, ICML 2026).

Legend: B pictures, H and W pixels, K classes without id 0.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from models.segmenter import Segmenter, grown
from pipeline.training.task import Tensors
from pipeline.training.tasks.pictures import chunks, to_float_image

DECAY = 0.996
"""Of the teacher's weights at each step, less at the start."""
TEACHER = "teacher."
"""What the names of its weights begin with, in the state of a segmenter in training."""
TEMPERATURE, ITERATIONS, LEAST = 0.05, 3, 0.95
"""Of the optimal transport, and the share below which a pixel is left void."""


@dataclass(frozen=True)
class Relabelling:
    """How.

    Attributes:
        held: a picture's masks hold classes of the mask that it came with alone.
        own_steps: first steps, which take the masks that are there: until then the teacher knows less than these.
        ignore_index: id of void pixels.
        first: the lowest id that is a class.
    """

    held: bool
    own_steps: int
    ignore_index: int
    first: int = 0

    def __call__(self, net: nn.Module, batch: Tensors, step: int) -> Tensors:
        """Pictures and masks, with the teacher's masks for those that people did not draw.

        Args:
            net: in training, with a `Teacher` as its `teacher`.
            batch: "image" (B, H, W, 3) uint8, "mask" (B, H, W) class ids, and "made" (B,) bool, which rows.
            step: that is being taken, from 0; may be asked for several times, with parts of its batch.
        """
        image, mask = batch["image"], batch["mask"]
        given = {"image": image, "mask": mask}
        if not torch.is_grad_enabled() or mask.is_meta:
            return given  # nobody learns: statistics are counted, or memory
        student = cast(Segmenter, getattr(net, "module", net))
        teacher = cast(Teacher, student.teacher)
        teacher.follow(student, step)
        if step < self.own_steps:
            return given
        found = self.masks(teacher, image, mask)
        return {"image": image, "mask": torch.where(batch["made"][:, None, None], found, mask)}

    @torch.no_grad()
    def masks(self, teacher: Teacher, image: Tensor, mask: Tensor) -> Tensor:
        """What the teacher sees, mirrored and not, balanced over classes: like `mask` (B, H, W).

        Args:
            teacher: the network.
            image: (B, H, W, 3) uint8, before it is varied.
            mask: (B, H, W), what is there.
        """
        parts = []
        for part in chunks(image):
            view = to_float_image(part)
            both = [grown(teacher.net(view), view), grown(teacher.net(view.flip(-1)), view).flip(-1)]
            parts.append(torch.stack([teacher.net.shares(one) for one in both]).mean(0)[:, self.first :])
        shares = torch.cat(parts)
        allowed = torch.ones(shares.shape[:2], dtype=torch.bool, device=shares.device)
        if self.held:
            classes = torch.arange(self.first, self.first + shares.shape[1], device=mask.device)
            allowed = torch.stack([torch.isin(classes, one) for one in mask.flatten(1)])
            allowed[~allowed.any(1)] = True  # nothing is known of it
        balanced = transported(shares, allowed)
        sure, best = balanced.max(1)
        return torch.where(sure < LEAST, self.ignore_index, best + self.first).to(mask.dtype)


def transported(shares: Tensor, allowed: Tensor) -> Tensor:
    """The shares of classes, moved by optimal transport (Sinkhorn's iterations) towards as much of each class in the
    batch of all workers: rare classes win what is in doubt.

    Args:
        shares: (B, C, H, W) float32.
        allowed: (B, C) bool, which classes a picture may hold.

    Returns:
        The same shape; of one pixel they sum to 1.
    """
    smallest = torch.finfo(shares.dtype).tiny
    logits = shares.clamp(min=smallest).log() / TEMPERATURE
    moved = logits.masked_fill(~allowed[:, :, None, None], -torch.inf).softmax(1)
    for _ in range(ITERATIONS):
        of_class = moved.sum((0, 2, 3))
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(of_class)
        moved = moved / of_class.clamp(min=smallest)[:, None, None]
        moved = moved / moved.sum(1, keepdim=True).clamp(min=smallest)
    return moved


class Teacher(nn.Module):
    """The average of a segmenter's weights that labels for it; a part of it, so that checkpoints hold it."""

    def __init__(self, student: Segmenter) -> None:
        super().__init__()
        self.net = copy.deepcopy(student).requires_grad_(False).eval()
        self._followed = -1

    def train(self, mode: bool = True) -> Teacher:
        """It never trains."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, student: nn.Module, step: int) -> None:
        """Moves towards the student's weights, once a step, however often it is asked in it."""
        if self._followed == step:
            return
        self._followed = step
        own: list[Tensor] = list(self.net.parameters())
        others: list[Tensor] = [one for name, one in student.named_parameters() if not name.startswith(TEACHER)]
        torch._foreach_lerp_(own, others, 1 - min(1 - 1 / (step + 1), DECAY))
        kept = [one for name, one in student.named_buffers() if not name.startswith(TEACHER)]
        for mine, other in zip(self.net.buffers(), kept, strict=True):
            mine.copy_(other)
