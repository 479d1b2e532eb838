"""SegFormer (Xie et al., 2021): transformers' network, with scores at the picture's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as functional
from torch import Tensor

from models.pretrained import filled, keep_everything, on_meta, quiet, read_pretrained
from models.segmenter import Segmenter, grown, normalised

LEAST_PX = 32
"""Smaller pictures are padded: attention first looks at an eighth of a quarter of them."""


@dataclass(frozen=True)
class SegformerSize:
    """Blocks and channels of each stage, and channels of the head."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int] = (64, 128, 320, 512)
    head: int = 768
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)


SIZES = {
    "b0": SegformerSize((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": SegformerSize((2, 2, 2, 2), head=256),
    "b2": SegformerSize((3, 4, 6, 3)),
    "b3": SegformerSize((3, 4, 18, 3)),
    "b4": SegformerSize((3, 8, 27, 3)),
    "tiny": SegformerSize((1, 1, 1, 1), (8, 8, 16, 16), 16, (1, 1, 2, 2)),
}
"""B0 to B4 of the paper."""


class Segformer(Segmenter):
    """See the module.

    Args:
        num_outputs: K + 1.
        size: of the network.
        pretrained: file, folder or name on the hub: an encoder, or a whole network, whose classes are learned anew
            where their number is another.

    Raises:
        WeightsError: nothing there, or tensors that are missing, surplus or of another shape; lists them.
    """

    def __init__(self, num_outputs: int, size: SegformerSize, pretrained: str = "") -> None:
        super().__init__()
        self.net = _network(num_outputs, size, pretrained)
        keep_everything(self.net)

    def scores(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        edges = (0, max(0, LEAST_PX - width), 0, max(0, LEAST_PX - height))
        whole = functional.pad(normalised(image), edges)
        return grown(self.net(pixel_values=whole).logits, whole)[..., :height, :width]


def _network(num_outputs: int, size: SegformerSize, pretrained: str) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=list(size.depths),
        hidden_sizes=list(size.widths),
        num_attention_heads=list(size.heads),
        decoder_hidden_size=size.head,
        num_labels=num_outputs,
    )
    if not pretrained or on_meta():
        with quiet():
            return SegformerForSemanticSegmentation(config)
    tensors = read_pretrained(pretrained)
    whole = any(name.startswith("decode_head.") for name in tensors)
    return filled(
        SegformerForSemanticSegmentation,
        config,
        tensors,
        pretrained,
        fresh=("decode_head.classifier.",) if whole else ("decode_head.",),
        unused=() if whole else ("classifier.",),
    )
