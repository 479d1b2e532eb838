"""Mask2Former (Cheng et al., 2022) for semantic masks: transformers' network, with our loss.

Legend: B pictures, H and W pixels, L layers that predict, Q queries, K classes without id 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.mask_loss import MaskLoss
from models.pretrained import filled, keep_everything, on_meta, quiet, read_pretrained
from models.segmenter import Segmenter, grown, normalised, padded

STRIDE = 32
"""Of the coarsest features: pictures are padded to its multiples, as where the published weights come from."""
STAGES = ["stage1", "stage2", "stage3", "stage4"]
ENCODER = "model.pixel_level_module.encoder"
LAST_NORM = "swin.layernorm"
"""Of the encoder, which nothing looks at; files of transformers 4 have none."""
PLACES = ".attention.self.relative_position_index"
"""Which of its biases each pair of a window's pixels has: files of transformers 4 have it, it follows from the size."""


@dataclass(frozen=True)
class Mask2FormerSize:
    """Sizes that differ from the published ones of Swin-S only where a test needs a tiny network."""

    backbone: Literal["swin", "resnet"] = "swin"
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    embedding: int = 96
    window: int = 7
    width: int = 256
    num_queries: int = 100
    encoder_layers: int = 6
    decoder_layers: int = 9
    num_points: int = 12544


SIZES = {
    "swin_s": Mask2FormerSize(),
    "r50": Mask2FormerSize("resnet", (3, 4, 6, 3), embedding=64),
    "tiny": Mask2FormerSize(
        "swin", (1, 1, 1, 1), (1, 1, 2, 2), 8, 4, 32, num_queries=8, encoder_layers=1, decoder_layers=3, num_points=64
    ),
}


class Mask2Former(Segmenter):
    """See the module.

    Args:
        num_outputs: K + 1.
        size: of the network.
        pretrained: file, folder or name on the hub: a backbone, or a whole network, whose classes are learned anew
            where their number is another.

    Raises:
        WeightsError: nothing there, or tensors that are missing, surplus or of another shape; lists them.
    """

    def __init__(self, num_outputs: int, size: Mask2FormerSize, pretrained: str = "") -> None:
        super().__init__()
        self.loss = MaskLoss(size.num_points)
        with quiet():
            self.net = _network(num_outputs, size, pretrained)
        del self.net.criterion
        if size.backbone == "swin":  # workers would wait for its gradient
            self.net.get_submodule(f"{ENCODER}.{LAST_NORM}").requires_grad_(False)
        keep_everything(self.net)

    def scores(self, image: Tensor) -> Tensor:
        """Shares, not logits: each query's class, weighted with its mask."""
        classes, masks = self._predict(image)
        places = grown(masks[-1].float(), padded(image, STRIDE))[..., : image.shape[-2], : image.shape[-1]].sigmoid()
        return torch.einsum("bqk,bqhw->bkhw", classes[-1].float().softmax(-1)[..., :-1], places)

    def shares(self, scores: Tensor) -> Tensor:
        return scores

    def training_loss(self, image: Tensor, mask: Tensor, ignore_index: int, seeds: Sequence[int] = ()) -> Tensor:
        classes, masks = self._predict(image)
        height, width = padded(image, STRIDE).shape[-2:]
        edges = (0, width - mask.shape[-1], 0, height - mask.shape[-2])
        truth = functional.pad(mask.int(), edges, value=ignore_index)
        return self.loss(classes, masks, truth, ignore_index, seeds)

    def _predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Of every layer, the last one last: (L, B, Q, K + 2) class logits and (L, B, Q, h, w) mask logits."""
        found = self.net(pixel_values=padded(normalised(image), STRIDE), output_auxiliary_logits=True)
        layers = [*found.auxiliary_logits, found]
        classes, masks = zip(
            *((one["class_queries_logits"], one["masks_queries_logits"]) for one in layers), strict=True
        )
        return torch.stack(classes), torch.stack(masks)


def _network(num_outputs: int, size: Mask2FormerSize, pretrained: str) -> Any:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetBackbone, SwinBackbone

    config = Mask2FormerConfig(
        backbone_config=_backbone(size),
        num_labels=num_outputs,
        feature_size=size.width,
        mask_feature_size=size.width,
        hidden_dim=size.width,
        encoder_feedforward_dim=4 * size.width,
        dim_feedforward=8 * size.width,
        num_attention_heads=size.width // 32,
        num_queries=size.num_queries,
        encoder_layers=size.encoder_layers,
        decoder_layers=size.decoder_layers + 1,  # counts the queries' own prediction too
    )
    if not pretrained or on_meta():
        return Mask2FormerForUniversalSegmentation(config)
    found = read_pretrained(pretrained)
    tensors = {name: value for name, value in found.items() if not name.endswith(PLACES)}
    if any(name.startswith("model.transformer_module.") for name in tensors):
        fresh = ("class_predictor.", "criterion.", f"{ENCODER}.{LAST_NORM}.")
        return filled(Mask2FormerForUniversalSegmentation, config, tensors, pretrained, fresh=fresh)
    kind = SwinBackbone if size.backbone == "swin" else ResNetBackbone
    net = Mask2FormerForUniversalSegmentation(config)
    backbone = filled(
        kind, config.backbone_config, tensors, pretrained, fresh=("hidden_states_norms.",), unused=("classifier.",)
    )
    encoder: nn.Module = net.get_submodule(ENCODER)
    encoder.load_state_dict(backbone.state_dict())
    return net


def _backbone(size: Mask2FormerSize) -> Any:
    from transformers import ResNetConfig, SwinConfig

    if size.backbone == "resnet":
        widths = [size.embedding * 2**stage for stage in range(2, 6)]
        return ResNetConfig(
            embedding_size=size.embedding, hidden_sizes=widths, depths=list(size.depths), out_features=STAGES
        )
    return SwinConfig(
        embed_dim=size.embedding,
        depths=list(size.depths),
        num_heads=list(size.heads),
        window_size=size.window,
        drop_path_rate=0.3,
        out_features=STAGES,
    )
