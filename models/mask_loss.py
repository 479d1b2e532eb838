"""The loss of Mask2Former (Cheng et al., 2022), with pixels that nobody knows left out.

As published, such pixels count as negatives of every mask. Here they are in no term of the matching cost, of the mask
loss or of the dice loss, and points that matter are looked for among known pixels alone. A point is known where none of
the pixels around it, which it is interpolated from, is unknown.

Legend: B pictures, L layers that predict, Q queries, K classes without id 0, T classes in a picture, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class MaskLoss:
    """Its weights and how points are drawn; the defaults are the paper's."""

    num_points: int = 12544
    oversampling: float = 3.0
    important: float = 0.75
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object: float = 0.1

    def __call__(
        self, classes: Tensor, masks: Tensor, truth: Tensor, ignore_index: int, seeds: Sequence[int] = ()
    ) -> Tensor:
        """The loss, summed over layers.

        Args:
            classes: (L, B, Q, K + 2) logits, "no object" last.
            masks: (L, B, Q, h, w) logits, of any size.
            truth: (B, H, W) class ids.
            ignore_index: id of unknown pixels. A picture without known ones teaches nothing.
            seeds: one per picture, of its points; by torch's own generator where there are none.
        """
        with torch.autocast(truth.device.type, enabled=False):
            return self._loss(classes.float(), masks.float(), truth, ignore_index, seeds)

    def _loss(self, classes: Tensor, masks: Tensor, truth: Tensor, ignore_index: int, seeds: Sequence[int]) -> Tensor:
        generators: list[torch.Generator | None] = [torch.Generator(truth.device).manual_seed(seed) for seed in seeds]
        generators = generators or [None] * len(truth)
        targets = [Targets.of(one, ignore_index) for one in truth.int()]
        costs = [
            self.matching_cost(classes[:, row], masks[:, row], target, draws)
            for row, (target, draws) in enumerate(zip(targets, generators, strict=True))
        ]
        matches = [match(cost) for cost in costs]  # only now: each waits for the device
        # Every parameter gets a gradient, also where there is nothing to learn: other workers wait for it.
        total = 0.0 * (classes.sum() + masks.sum())
        wanted = torch.full(classes.shape[:3], classes.shape[-1] - 1, device=classes.device)
        num_masks = max(1, sum(len(target.ids) for target in targets))
        for row, (target, (queries, chosen)) in enumerate(zip(targets, matches, strict=True)):
            if not len(target.ids):
                continue
            layers = torch.arange(len(queries), device=queries.device)[:, None]
            wanted[layers, row, queries] = target.ids[chosen]
            total = total + self.mask_terms(masks[layers, row, queries], target, chosen, generators[row]) / num_masks
        taught = torch.tensor([len(target.ids) > 0 for target in targets], device=classes.device)
        weight = torch.where(wanted < classes.shape[-1] - 1, 1.0, self.no_object) * taught[:, None]
        surprise = functional.cross_entropy(classes.movedim(-1, 1), wanted, reduction="none")
        per_layer = (surprise * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=self.no_object)
        return total + self.class_weight * per_layer.sum()

    @torch.no_grad()
    def matching_cost(
        self, classes: Tensor, masks: Tensor, target: Targets, generator: torch.Generator | None
    ) -> Tensor:
        """(L, Q, K + 2) and (L, Q, h, w) of one picture -> (L, Q, T)."""
        points = torch.rand(len(masks), self.num_points, 2, generator=generator, device=masks.device)
        known = target.known_at(points)[:, None]  # (L, 1, P)
        logits = at(masks, points)
        true = target.all_at(points)  # (L, P, T)
        there, absent = true * known.transpose(1, 2), (1 - true) * known.transpose(1, 2)
        count = known.sum(-1, keepdim=True).clamp(min=1)
        mask_cost = (functional.softplus(-logits) @ there + functional.softplus(logits) @ absent) / count
        shares = logits.sigmoid()
        sums = (shares * known).sum(-1, keepdim=True) + there.sum(1, keepdim=True)
        dice_cost = 1 - (2 * shares @ there + 1) / (sums + 1)
        class_cost = -classes.softmax(-1)[..., target.ids]
        return self.class_weight * class_cost + self.mask_weight * mask_cost + self.dice_weight * dice_cost

    def mask_terms(self, masks: Tensor, target: Targets, chosen: Tensor, generator: torch.Generator | None) -> Tensor:
        """Weighted mask and dice losses of matched masks (L, N, h, w), whose classes are `chosen` (L, N), summed."""
        flat = masks.flatten(0, 1)[:, None]  # (L N, 1, h, w)
        with torch.no_grad():
            points = self.important_points(flat, target, generator)
            known = target.known_at(points)
            true = target.chosen_at(points, chosen)
        logits = at(flat, points)[:, 0]
        surprise = functional.binary_cross_entropy_with_logits(logits, true, reduction="none")
        mask_loss = (surprise * known).sum(1) / known.sum(1).clamp(min=1)
        shares, true = logits.sigmoid() * known, true * known
        dice_loss = 1 - (2 * (shares * true).sum(1) + 1) / (shares.sum(1) + true.sum(1) + 1)
        return (self.mask_weight * mask_loss + self.dice_weight * dice_loss).sum()

    def important_points(self, masks: Tensor, target: Targets, generator: torch.Generator | None) -> Tensor:
        """(N, P, 2) points, most of them where masks (N, 1, h, w) are least sure (PointRend, section 3.1)."""

        def drawn(count: int) -> Tensor:
            return torch.rand(len(masks), count, 2, generator=generator, device=masks.device)

        candidates = drawn(int(self.num_points * self.oversampling))
        doubt = -at(masks, candidates)[:, 0].abs()
        doubt = doubt.masked_fill(target.known_at(candidates) == 0, -torch.inf)
        num_important = int(self.important * self.num_points)
        best = doubt.topk(num_important, dim=1).indices[..., None].expand(-1, -1, 2)
        return torch.cat([candidates.gather(1, best), drawn(self.num_points - num_important)], dim=1)


@dataclass(frozen=True)
class Targets:
    """What one picture shows: the classes (T,), a mask of each (T, H, W), and where nothing is known (1, H, W)."""

    ids: Tensor
    masks: Tensor
    unknown: Tensor

    @classmethod
    def of(cls, truth: Tensor, ignore_index: int) -> Targets:
        """Of (H, W) class ids."""
        ids = truth.unique()
        ids = ids[ids != ignore_index].long()
        return cls(ids, (truth == ids[:, None, None]).float(), (truth == ignore_index)[None].float())

    def known_at(self, points: Tensor) -> Tensor:
        """(N, P) float: 1 where a point touches no unknown pixel."""
        return (at(self.unknown[None], points.reshape(1, -1, 2)) == 0).float().view(points.shape[:2])

    def all_at(self, points: Tensor) -> Tensor:
        """(N, P, T), every mask at points (N, P, 2)."""
        return at(self.masks[None], points.reshape(1, -1, 2))[0].T.unflatten(0, points.shape[:2])

    def chosen_at(self, points: Tensor, chosen: Tensor) -> Tensor:
        """(L N, P), for each row of points (L N, P, 2) the mask that `chosen` (L, N) names."""
        layers = zip(chosen, points.unflatten(0, chosen.shape), strict=True)  # not all at once: masks are large
        return torch.cat([at(self.masks[one][:, None], places)[:, 0] for one, places in layers])


def at(pictures: Tensor, points: Tensor) -> Tensor:
    """(N, C, H, W) at (N, P, 2) places (x, y), 0 to 1 over the picture, interpolated -> (N, C, P)."""
    return functional.grid_sample(pictures, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def match(cost: Tensor) -> tuple[Tensor, Tensor]:
    """(L, Q, T) -> queries and the classes that they stand for, (L, min(Q, T)) each; the cheapest in all."""
    finite = torch.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=1e9).cpu().numpy()
    pairs = np.array([linear_sum_assignment(one) for one in finite])  # (L, 2, N)
    queries, chosen = torch.from_numpy(pairs).to(cost.device).unbind(1)
    return queries, chosen
