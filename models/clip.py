"""Both towers of CLIP: how well a text fits a picture.

Legend: B pictures, T texts, H and W the sides of a picture, D numbers of the space that both share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from models.frozen import clip_pixels
from models.pretrained import filled, read_config, read_pretrained
from models.published_files import locate
from models.weights import WeightsError


class Clip(nn.Module):
    """A CLIP with its tokenizer, in evaluation mode.

    Args:
        net: of transformers.
        tokenizer: of its texts.
    """

    def __init__(self, net: Any, tokenizer: Any) -> None:
        super().__init__()
        self.net, self.tokenizer = net, tokenizer

    @property
    def scale(self) -> float:
        """What cosines are multiplied by for shares."""
        return float(self.net.logit_scale.exp())

    def pictures(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, D) float32 of length 1."""
        pixels = clip_pixels(image.permute(0, 3, 1, 2).float() / 127.5 - 1, self.net.config.vision_config.image_size)
        seen = self.net.vision_model(pixel_values=pixels.to(self.net.dtype)).pooler_output
        return functional.normalize(self.net.visual_projection(seen).float(), dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """T texts -> (T, D) float32 of length 1; what is beyond its tokens is cut."""
        most = self.net.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=most, truncation=True, return_tensors="pt"
        )
        read = self.net.text_model(input_ids=tokens["input_ids"].to(self.net.device)).pooler_output
        return functional.normalize(self.net.text_projection(read).float(), dim=-1)


def load_clip(source: str) -> Clip:
    """Reads a whole CLIP from a folder, or by a name on the hub, `owner/name[@revision]`.

    Raises:
        WeightsError: nothing there, damaged, not complete, or no whole CLIP.
    """
    folder = locate(source).folder
    config = read_config(source)
    if not isinstance(config, CLIPConfig):
        raise WeightsError(f"{source}: a {config.model_type}, not a whole CLIP with both its towers; give one")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{source}: no tokenizer beside the weights; fetch it again ({error})") from error
    return Clip(filled(CLIPModel, config, read_pretrained(source), source).eval(), tokenizer)
