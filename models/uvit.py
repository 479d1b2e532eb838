"""U-ViT: a transformer over tokens whose early blocks feed the late ones through long skips (U-ViT, Fig. 1).

Legend: B pairs, N tokens, D width, L blocks (half in, one middle, half out). Parameter names are those of UniDiffuser's
published weights, so that a state dict loads without a table of names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention, (B, heads, N, head width) each.

    The backward pass of PyTorch's fused kernel is several times slower than plain matrix products in bf16 on a CPU.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return functional.scaled_dot_product_attention(query, key, value)
    scaled = query * (1 / math.sqrt(query.shape[-1]))
    with without_autocast(query.device):  # softmax sums in float32 inside; wider operands would only cost memory
        return (scaled @ key.transpose(-1, -2)).softmax(-1) @ value


def compute(layer: nn.Module, x: Tensor) -> Tensor:
    """How layers are run unless their outputs are kept and reused (`models.step_cache`)."""
    return layer(x)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Operations inside keep their dtypes. Meta tensors, which only count sizes, know no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class LayerNorm(nn.LayerNorm):
    """Layer norm that keeps the dtype of its input (statistics are float32 inside), so that autocast in bf16 does not
    widen the residual stream: that traffic is 40 % of a training step on a CPU."""

    def forward(self, x: Tensor, branch: Tensor | None = None) -> Tensor:
        """Of `x`, or of its sum with the output of a layer."""
        x = x if branch is None else x + branch
        with without_autocast(x.device):
            return functional.layer_norm(
                x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps
            )


class Attention(nn.Module):
    """Multi-head self-attention without bias on query, key and value."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        heads = (x.shape[0], x.shape[1], self.num_heads, -1)
        query, key, value = (project(x).view(heads).transpose(1, 2) for project in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](attention(query, key, value).transpose(1, 2).flatten(2))


class GELUProjection(nn.Module):
    """Linear, then exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.proj(x))


class FeedForward(nn.Module):
    """D -> 4 D -> D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GELUProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class Block(nn.Module):
    """Attention and feed-forward, normed after the residual as in UniDiffuser, or before it (`pre_norm`)."""

    def __init__(self, width: int, num_heads: int, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attn1 = Attention(width, num_heads)
        self.norm1 = LayerNorm(width)
        self.norm3 = LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor] = compute) -> Tensor:
        if self.pre_norm:
            x = x + run(self.attn1, self.norm1(x))
            return x + run(self.ff, self.norm3(x))
        x = self.norm1(x, run(self.attn1, x))
        return self.norm3(x, run(self.ff, x))


class Skip(nn.Module):
    """Joins a late token with the same token of an early block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.skip_linear = nn.Linear(2 * width, width)
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor, early: Tensor) -> Tensor:
        return self.norm(self.skip_linear(torch.cat([x, early], dim=-1)))


class OutBlock(nn.Module):
    """A block behind its skip."""

    def __init__(self, width: int, num_heads: int, pre_norm: bool) -> None:
        super().__init__()
        self.skip = Skip(width)
        self.block = Block(width, num_heads, pre_norm)

    def forward(self, x: Tensor, early: Tensor, run: Callable[[nn.Module, Tensor], Tensor] = compute) -> Tensor:
        return self.block(self.skip(x, early), run)


class UViT(nn.Module):
    """Tokens (B, N, D) -> tokens (B, N, D), with `num_layers` blocks besides the middle one."""

    def __init__(self, width: int, num_heads: int, num_layers: int, pre_norm: bool = False) -> None:
        super().__init__()
        half = num_layers // 2
        self.transformer_in_blocks = nn.ModuleList(Block(width, num_heads, pre_norm) for _ in range(half))
        self.transformer_mid_block = Block(width, num_heads, pre_norm)
        self.transformer_out_blocks = nn.ModuleList(OutBlock(width, num_heads, pre_norm) for _ in range(half))
        self.norm_out = LayerNorm(width)

    def forward(self, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor] = compute) -> Tensor:
        """`run` gives the output of an attention or feed-forward layer for its input."""
        early: list[Tensor] = []
        for block in self.transformer_in_blocks:
            x = block(x, run)
            early.append(x)
        x = self.transformer_mid_block(x, run)
        for out_block in self.transformer_out_blocks:
            x = out_block(x, early.pop(), run)
        return self.norm_out(x)
