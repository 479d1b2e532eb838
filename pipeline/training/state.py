"""Everything a training must remember to go on: weights, their average, optimisers, step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pipeline.base.errors import DataError
from pipeline.training.optimisation import Optimisation, in_float, optimizers, set_rate
from pipeline.training.parallel import Group, own, put, shard, whole


class TrainState:
    """The state of one training. Workers hold the same, or their slices of it.

    Args:
        net: the network, on its device.
        settings: the recipe, for the optimisers.
        group: the workers, one alone by default.
        sharded: each worker keeps its slices alone.

    Attributes:
        weights: the parameters of `net`, maybe sharded, in its order.
    """

    def __init__(
        self, net: nn.Module, settings: Optimisation, group: Group | None = None, *, sharded: bool = False
    ) -> None:
        self.net = net
        self.average = copy.deepcopy(net).requires_grad_(False).eval()
        self.sharded = sharded
        if sharded:
            for one in (self.net, self.average):
                shard(one, group or Group(), settings.precision)
        self.optimizers = optimizers(net, settings)
        self._optimizer_of = {
            parameter: optimizer
            for optimizer in self.optimizers
            for parameters in optimizer.param_groups
            for parameter in parameters["params"]
        }
        # Lists, since walking through a network at every step takes a small one longer than a GPU its work.
        self.weights, self._means = list(net.parameters()), list(self.average.parameters())
        self.step = 0
        self.unfit_step = torch.tensor(-1, device=next(net.parameters()).device)
        """The first step whose gradient was not finite, on the device; -1: none so far."""
        self.seconds = 0.0
        """Time since the first step began, over all starts of the run, with what was done between steps."""

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Moves the averaged weights towards the current ones; early steps count more, or the start would linger."""
        weight = 1 - min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_([own(mean) for mean in self._means], [own(now) for now in self.weights], weight)
        alike: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for kept, now in zip(self.average.buffers(), self.net.buffers(), strict=True):
            for side, one in zip(alike.setdefault(now.dtype, ([], [])), (kept, now), strict=True):
                side.append(one)
        for kept_ones, these in alike.values():  # of one type all are copied at once
            torch._foreach_copy_(kept_ones, these)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor, maybe sharded, of all that a checkpoint holds: "net.*", "average.*", "optimizer.*"."""
        for part, module in (("net", self.net), ("average", self.average)):
            for name, tensor in module.state_dict().items():
                yield f"{part}.{name}", tensor
        for name, parameter in self.net.named_parameters():
            for key, value in self._memory(parameter).items():
                yield f"optimizer.{name}.{key}", value

    def snapshot(self, group: Group) -> dict[str, Tensor]:
        """Copies of all tensors on the CPU, whole, in the worker that leads; empty in the others, who must call too."""
        kept: dict[str, Tensor] = {}
        for name, tensor in self.tensors():
            one = in_float(whole(tensor.detach()))
            if group.leads:
                kept[name] = one.to("cpu", copy=True).contiguous()
        return kept

    def restore(self, saved: Mapping[str, Tensor], *, where: str) -> None:
        """Goes on from what `snapshot` gave; the number of workers and their strategy may differ.

        Raises:
            DataError: a tensor is missing or has another shape.
        """
        if any(name.startswith("optimizer.") for name in saved):
            self._have_optimizers_remember()
        for name, tensor in self.tensors():
            value = saved.get(name)
            if value is None or value.shape != tensor.shape:
                found = "missing" if value is None else tuple(value.shape)
                raise DataError(
                    f"{where}: {name} is {found}, the network has {tuple(tensor.shape)}; this checkpoint is of another "
                    "network: take another --run name"
                )
            put(tensor, value)

    def averaged(self, group: Group) -> dict[str, Tensor]:
        """The averaged weights on the CPU, whole, in the worker that leads; the others must call too."""
        found: dict[str, Tensor] = {}
        for name, tensor in self.average.state_dict().items():
            one = whole(tensor)  # not all at once: nobody may have room for that
            if group.leads:
                found[name] = one.cpu()
        return found

    def _have_optimizers_remember(self) -> None:
        """Optimisers make room for what they remember at their first step: one that changes nothing."""
        for parameter in self.net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in self.optimizers:
            set_rate(optimizer, 0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _memory(self, parameter: Tensor) -> dict[str, Tensor]:
        """What the optimiser of a parameter remembers of it."""
        optimizer = self._optimizer_of.get(parameter)
        return optimizer.state[parameter] if optimizer else {}
