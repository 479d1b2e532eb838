"""Muon for many small matrices: those of one shape go through the iteration together.

One after the other, the 58 matrices of a network of eight layers ask a GPU for more than a thousand small kernels a
step, which takes the host longer than the GPU. The numbers are those of torch's Muon (Jordan et al., 2024), tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST_AT_ONCE = 2**24
"""Numbers that go through together: more is no faster, and would hold copies of a large network."""

Row = tuple[Tensor, Tensor, Tensor]
"""A matrix, its gradient, and the mean of those before."""


class Muon(torch.optim.Muon):
    """As torch's, with the same state, for weights that are whole in each worker. Like torch's fused optimisers it
    changes nothing where `found_inf`, a tensor on their device, is 1, so that nobody need wait for it."""

    found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is not called."""
        for group in self.param_groups:
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            memory: list[Tensor] = []
            self._init_group(group, parameters, gradients, memory)
            alike: dict[torch.Size, list[Row]] = {}
            for row in zip(parameters, gradients, memory, strict=True):
                alike.setdefault(row[0].shape, []).append(row)
            for shape, rows in alike.items():
                at_once = max(1, MOST_AT_ONCE // shape.numel())
                for start in range(0, len(rows), at_once):
                    self._step_alike(rows[start : start + at_once], group)

    def _step_alike(self, rows: list[Row], group: dict[str, Any]) -> None:
        parameters, gradients, memory = map(list, zip(*rows, strict=True))
        height, width = parameters[0].shape
        momentum, rate = group["momentum"], float(group["lr"])
        gradient, mean = torch.stack(gradients), torch.stack(memory)
        fits: Tensor | float = 1.0
        if self.found_inf is not None:
            fits = 1 - self.found_inf.to(gradient.device, gradient.dtype)
            gradient = torch.where(fits > 0, gradient, mean)  # which leaves the mean what it is
        mean = mean.lerp(gradient, 1 - momentum)
        torch._foreach_copy_(memory, list(mean.unbind()))
        update = gradient.lerp(mean, momentum) if group["nesterov"] else mean
        update = orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        like_adamw = group["adjust_lr_fn"] == "match_rms_adamw"
        reach = 0.2 * max(height, width) ** 0.5 if like_adamw else max(1, height / width) ** 0.5
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"] * fits)
        torch._foreach_add_(parameters, list((update.float() * (-rate * reach * fits)).unbind()))


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The nearest orthogonal matrices, about: Newton and Schulz's iteration in bfloat16, (B, M, N) -> (B, M, N)."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.bfloat16()
    found = found.mT if tall else found
    found = found / torch.linalg.vector_norm(found, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.mT if tall else found
