"""Compiled: layers of a U-ViT as code that is made for their shapes, each kind once ("regional compilation").

A network's many blocks hold the same few kinds of layers, so that code for one of each kind serves them all: seconds of
compiling instead of minutes for the whole network, and layers can still be left out one by one (`models.step_cache`).
Without CUDA graphs: they save launches, which batches this large should hide, and cost memory (not measured yet).

Legend: B rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.jodiffusion import JoDiffusion, Joint
from models.uvit import Block, FeedForward, Skip

made = 0
"""Graphs that this process has compiled. Samplers and networks of the same shapes share them."""


class Compiled:
    """A joint network whose layers are compiled for some numbers of rows, and for no others: feed-forward, skip, and
    norm with the sum before it. They keep their names and weights. What cannot be one graph is an error.

    Args:
        net: changed in place.
        rows: B of each shape that it is run at. Compiles now, under the precision of the caller.

    Attributes:
        graphs: compiled for it; none that an earlier network of these shapes had needed.
        seconds: that this took.

    Raises:
        ValueError: no compiler here, or one that cannot do it.
    """

    def __init__(self, net: JoDiffusion, rows: Iterable[int]) -> None:
        before, began = made, time.perf_counter()
        # Not attention: it is matrix products around one fused kernel, and code for it would only call these.
        layers: list[nn.Module] = [layer for layer in net.modules() if isinstance(layer, FeedForward | Skip)]
        layers += [norm for block in net.modules() if isinstance(block, Block) for norm in (block.norm1, block.norm3)]
        for layer in layers:
            layer.compile(backend=_counted, fullgraph=True, dynamic=False)
        try:
            # A cache entry a kind and shape; the default of 8 is little for a process with samplers of many sizes.
            with torch._dynamo.config.patch(recompile_limit=64):
                for count in rows:
                    net(*_blank(net, count))
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ValueError(
                "compile: the network's layers cannot be compiled on this machine, which takes a C++ compiler (g++) on "
                f"CPUs, and Triton on GPUs; install it, or leave compile off. {_in_short(error)}"
            ) from error
        self.graphs, self.seconds = made - before, time.perf_counter() - began

    @contextmanager
    def only(self) -> Iterator[None]:
        """Inside, a shape for which there is no code is an error (RuntimeError); nothing is compiled any more, and
        nothing runs as if it had not been."""
        with torch.compiler.set_stance("fail_on_recompile"):
            yield


def inductor() -> Callable[..., Any]:
    """What makes code of graphs."""
    backend: Callable[..., Any] = torch._dynamo.lookup_backend("inductor")
    return backend


def _counted(graph: Any, inputs: Any) -> Callable[..., Any]:
    global made
    made += 1
    code: Callable[..., Any] = inductor()(graph, inputs)
    return code


def _blank(net: JoDiffusion, count: int) -> tuple[Joint, Tensor, Tensor, Tensor]:
    """Zeros for B rows, as the network takes them."""
    config = net.config
    zeros = partial(torch.zeros, count, device=net.pos_embed.device)
    noisy = Joint(
        zeros(config.image_channels, config.latent_size, config.latent_size),
        zeros(1, config.clip_image_width),
        zeros(config.mask_channels, config.latent_size, config.latent_size),
    )
    return noisy, zeros(config.num_text_tokens, config.text_width), zeros(), zeros()


def _in_short(error: Exception) -> str:
    """What a compiler, or what makes graphs for it, says of itself, in a line."""
    lines = [line.strip() for line in str(getattr(error, "inner_exception", error)).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
