"""Several workers that train one network together: who has which rows, and where weights and gradients are.

"ddp" keeps the whole network in every worker and exchanges gradients (PyTorch Distributed, VLDB 2020). "fsdp" keeps a
slice of every weight, gradient and optimiser state in each and gathers a block's weights while it is used (ZeRO, stage
3; PyTorch FSDP2, `fully_shard`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from models.precision import Precision

Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Group:
    """This worker among all that train together; alone by default."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this worker speaks for all: it logs, judges and writes."""
        return self.rank == 0

    def rows(self, batch_size: int) -> range:
        """Places of this worker's rows in every batch of `batch_size`; shares differ by one row at most."""
        return range(batch_size * self.rank // self.world_size, batch_size * (self.rank + 1) // self.world_size)

    def total(self, values: Tensor) -> Tensor:
        """Sum over all workers, in each of them."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def greatest(self, values: Tensor) -> Tensor:
        """Maximum over all workers, in each of them."""
        return self._reduced(values, distributed.ReduceOp.MAX)

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        values = values.detach().to(self.device, copy=True)
        if self.world_size > 1:
            distributed.all_reduce(values, how)
        return values


def blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The repeated parts of a network: members of its outermost module lists, and what is of their kind beside them,
    as a transformer's middle block."""
    inside: set[nn.Module] = set()
    kinds: set[type] = set()
    for module in net.modules():
        if module in inside:
            continue
        if isinstance(module, nn.ModuleList):
            found = [block for block in module if isinstance(block, nn.Module)]  # some keep a None
            kinds |= {type(block) for block in found if any(block.children())}
        elif type(module) in kinds:
            found = [module]
        else:
            continue
        inside.update(module.modules())
        yield from found


def recompute_activations(net: nn.Module) -> None:
    """Keeps only the input of every block for the backward pass, which computes the rest again (Chen et al., "Training
    deep nets with sublinear memory cost")."""
    for block in blocks(net):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def shard(net: nn.Module, group: Group, precision: Precision) -> None:
    """Leaves in every parameter of `net` only this worker's slice, in float32. Gathered for use in `precision`;
    gradients are summed in float32."""
    mesh = init_device_mesh(group.device.type, (group.world_size,))
    # Inputs stay as they are: times up to 1000 would be coarse in bfloat16. Autocast serves the rest.
    half = torch.bfloat16 if precision == "bfloat16" else None
    for parameter in net.parameters():
        parameter.data = parameter.data.contiguous()  # slices know no other order of memory
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks(net):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(net, mesh=mesh, mp_policy=policy)


def wrapped(net: nn.Module, group: Group) -> nn.Module:
    """What is called in training so that workers exchange gradients: `net` itself where it is sharded or alone."""
    if group.world_size == 1 or isinstance(net, FSDPModule):
        return net
    ids = [group.device] if group.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(net, device_ids=ids, gradient_as_bucket_view=True)


@contextlib.contextmanager
def exchanging(net: nn.Module, now: bool) -> Iterator[None]:
    """Whether the backward pass inside exchanges gradients with the other workers, or only adds to one's own. Slices
    always exchange: nobody may have room for all gradients."""
    if isinstance(net, nn.parallel.DistributedDataParallel) and not now:
        with net.no_sync():
            yield
    else:
        yield


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, gathered from all workers, who must all ask; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """This worker's slice of a sharded tensor; others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into one that may be sharded; every worker takes its slice."""
    if isinstance(target, DTensor):
        value = value.to(target.device, target.dtype)
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None).to_local()
    own(target).copy_(value)
