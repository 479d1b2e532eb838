"""What a training will take, worked out before it starts: the network is built and run as meta tensors, sizes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from models.draws import Draws
from pipeline.base.errors import ConfigError
from pipeline.training.optimisation import Optimisation, optimizers
from pipeline.training.parallel import Strategy, blocks, recompute_activations
from pipeline.training.task import Task, Tensors

GIB = 2**30
FLOAT, HALF = 4, 2
PASSES = 3
"""Work of a training step, in forward passes: forward, and backward by weights and by inputs."""


@dataclass(frozen=True)
class Needs:
    """Sizes in bytes; memory is that of one worker, on its GPU or, without one, on its machine.

    Attributes:
        parameters: numbers that are trained.
        tokens: of a step, over all workers; 0 where the network has none.
        memory: name -> bytes of what a worker holds at the same time. "activations" is an estimate from eager
            execution; it is missing where the network cannot be run on sizes alone.
        checkpoint: of one file.
    """

    parameters: int
    tokens: int
    checkpoint: float
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Bytes of a worker."""
        return sum(self.memory.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_size(size)}" for name, size in self.memory.items())
        tokens = f"{self.tokens:,} tokens a step; " if self.tokens else ""
        return (
            f"{self.parameters:,} parameters; {tokens}a worker holds about {_size(self.total)} ({parts}); a checkpoint "
            f"is {_size(self.checkpoint)}"
        )


def training_needs(
    task: Task,
    recipe: Optimisation,
    example: Tensors,
    *,
    world_size: int = 1,
    strategy: Strategy = "ddp",
    recompute: bool = False,
    fused_attention: bool = True,
) -> Needs:
    """What a training will take.

    Raises:
        ConfigError: a network that "fsdp" cannot slice.

    Args:
        task: what is trained; its network is built without memory.
        recipe: batch, parts, precision and optimiser.
        example: one row (1, ...) of each column that `task.loss` takes.
        world_size: number of workers.
        strategy: "ddp" or "fsdp".
        recompute: of activations in the backward pass.
        fused_attention: whether attention keeps no matrix of all tokens with all tokens, as on GPUs.
    """
    with torch.device("meta"):
        net = task.build()
    count = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    largest = max((sum(one.numel() for one in block.parameters()) for block in blocks(net)), default=count)
    sharded = strategy == "fsdp" and world_size > 1
    if sharded and any(not parameter.ndim for parameter in net.parameters()):
        raise ConfigError("strategy fsdp cannot shard this network: it has scalar parameters; use strategy ddp")
    kept = 1 / world_size if sharded else 1.0
    one = 1 + FLOAT / 256 if recipe.optimizer == "adamw8bit" else FLOAT  # 8-bit codes have a scale for each block
    remembered = sum(
        parameter.numel() * one * (1 if isinstance(optimizer, torch.optim.Muon | torch.optim.SGD) else 2)
        for optimizer in optimizers(net, recipe)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    half = recipe.precision == "bfloat16"
    memory = {
        "weights": FLOAT * count * kept,
        "gradients": FLOAT * count * kept,
        "optimiser": remembered * kept,
        "average": FLOAT * count * kept,
    }
    if sharded:
        # A block in use, the next on its way, and the gradients of one before they are summed.
        memory["gathered blocks"] = largest * (2 * (HALF if half else FLOAT) + FLOAT)
    elif half:
        memory["rounded weights"] = HALF * (largest if recompute else count)
    rows = -(-recipe.batch_size // (world_size * recipe.accumulation))
    kept_bytes = activations(task, net, example, rows, recompute, fused_attention)
    if kept_bytes is not None:
        memory["activations"] = kept_bytes * (HALF / FLOAT if half else 1)
    tokens = recipe.batch_size * int(getattr(net, "num_tokens", 0))
    return Needs(count, tokens, FLOAT * (2 * count + remembered / one), memory)


def training_work(task: Task, example: Tensors) -> float:
    """Floating-point operations of a training step for each of its rows: three times those of the forward pass, whose
    products of matrices and convolutions are counted.

    Raises:
        RuntimeError, NotImplementedError, TypeError: the network asks for values, so that it cannot run on sizes alone.
    """
    with torch.device("meta"):
        net = task.build()
    batch = {name: torch.empty_like(value, device="meta") for name, value in example.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.loss(net, batch, Draws(0, 0, range(len(next(iter(batch.values())))), "meta"))
    return PASSES * counter.get_total_flops() / len(next(iter(batch.values())))


def activations(task: Task, net: nn.Module, example: Tensors, rows: int, recompute: bool, fused: bool) -> float | None:
    """Bytes in float32 that the forward pass of `rows` rows keeps for the backward pass; None where it cannot run."""
    batch = {
        name: torch.empty(rows, *value.shape[1:], dtype=value.dtype, device="meta") for name, value in example.items()
    }
    kept = _kept(task, net, batch, rows, fused)
    if kept is None or not recompute:
        return kept
    recompute_activations(net)
    inputs = _kept(task, net, batch, rows, fused)
    # And those of one block, computed again.
    return None if inputs is None else inputs + kept / max(1, len(list(blocks(net))))


def _kept(task: Task, net: nn.Module, batch: Tensors, rows: int, fused: bool) -> float | None:
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage
        return tensor

    own = {one.untyped_storage()._cdata for one in (*net.parameters(), *net.buffers())}
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor), _Attention(fused):
            task.loss(net, batch, Draws(0, 0, range(rows), "meta"))
    except (RuntimeError, NotImplementedError, TypeError):  # asks for values, which meta tensors do not have
        return None
    return float(sum(storage.nbytes() for storage in storages.values()))


class _Attention(TorchFunctionMode):
    """Attention that keeps what a fused kernel keeps, or what plain products keep."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, key, value = args[:3]
            if self.fused:
                return _Fused.apply(query, key, value)
            return (query @ key.transpose(-1, -2)).softmax(-1) @ value
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """Keeps its inputs, its output and a number for each row (FlashAttention, section 3.1)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])  # there may be fewer keys than queries
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1]))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("only sizes are computed")


def _size(number: float) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / 2**20:.1f} MiB"
