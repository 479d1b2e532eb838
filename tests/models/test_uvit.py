"""Parts of the transformer: attention is the textbook's with and without gradients, and early blocks feed late ones."""

from __future__ import annotations

import math

import pytest
import torch

from models.uvit import Attention, Block, LayerNorm, UViT, attention, without_autocast


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of one head, token after token."""
    rows = []
    for one in query:
        weights = torch.stack([one @ other / math.sqrt(len(one)) for other in key]).exp()
        rows.append(sum(weight * row for weight, row in zip(weights / weights.sum(), value, strict=True)))
    return torch.stack(rows)


def test_attention_is_softmax_attention_with_and_without_gradients():
    query, key, value = (normal(2, 3, size, 4)[:, :, :5] for size in (5, 6, 7))
    expected = torch.stack(
        [
            torch.stack([by_hand(*heads) for heads in zip(*row, strict=True)])
            for row in zip(query, key, value, strict=True)
        ]
    )
    torch.testing.assert_close(attention(query, key, value), expected)
    with torch.no_grad():
        torch.testing.assert_close(attention(query, key, value), expected)


def test_tokens_are_a_set():
    """Without positions, which the joint network adds, the order of tokens changes their order alone."""
    layer, tokens = Attention(8, 2), normal(1, 6, 8)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens[:, order]), layer(tokens)[:, order])


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_block_adds_to_its_input_and_norms_where_it_is_told_to(pre_norm):
    block, tokens = Block(8, 2, pre_norm), normal(2, 5, 8)
    for name, parameter in block.named_parameters():
        if "to_out" in name or "net.2" in name:
            torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        expected = tokens if pre_norm else torch.nn.functional.layer_norm(tokens, (8,))
        torch.testing.assert_close(block(tokens), expected, atol=1e-4, rtol=0)


def test_early_blocks_feed_the_late_ones_the_first_the_last():
    torch.manual_seed(0)
    net, tokens = UViT(8, 2, num_layers=4), normal(1, 5, 8)
    given, taken = [], []
    for block in net.transformer_in_blocks:
        block.register_forward_hook(lambda module, inputs, output: given.append(output))
    for block in net.transformer_out_blocks:
        block.register_forward_hook(lambda module, inputs, output: taken.append(inputs[1]))
    assert net(tokens).shape == tokens.shape
    assert [id(one) for one in taken] == [id(one) for one in reversed(given)] and len(taken) == 2


def test_norms_keep_the_dtype_of_their_input_under_autocast():
    norm, tokens = LayerNorm(8), normal(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(tokens.bfloat16()).dtype is torch.bfloat16
        with without_autocast(torch.device("cpu")):
            assert (tokens @ tokens.T).dtype is torch.float32
        assert (tokens @ tokens.T).dtype is torch.bfloat16
    with without_autocast(torch.device("meta")):
        assert torch.empty(1, device="meta").is_meta
