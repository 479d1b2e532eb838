"""Picture classifier: what an image classification network of others calls a picture, such as "nsfw" or "normal".

Legend: B pictures, H and W their sides, C names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from models.annotation_vae import per_channel
from models.pretrained import filled, read_config, read_pretrained
from models.published_files import locate
from models.weights import WeightsError

SETTINGS = "preprocessor_config.json"


class PictureClassifier(nn.Module):
    """An image classification network of transformers, and how it wants its pictures.

    Args:
        net: the network.
        size_px: height and width of what it sees; pictures are scaled to it, whatever their shape.
        mean, std: of red, green and blue in [0, 1].
    """

    def __init__(self, net: Any, size_px: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net, self.size_px, self.mean, self.std = net, size_px, mean, std

    def forward(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, C) float32, shares of the names."""
        pixels = image.permute(0, 3, 1, 2).float() / 255
        seen = functional.interpolate(pixels, self.size_px, mode="bilinear", antialias=True).clamp(0, 1)
        normalised = (seen - per_channel(self.mean, image.device)) / per_channel(self.std, image.device)
        return self.net(pixel_values=normalised.to(self.net.dtype)).logits.float().softmax(1)


def load_picture_classifier(source: str) -> PictureClassifier:
    """Reads one from a folder or a name on the hub, `owner/name[@revision][/folder]`.

    Raises:
        WeightsError: nothing there, damaged, not complete, another network, or without its settings for pictures.
    """
    config = _config(source)
    kind = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    net = filled(kind, config, read_pretrained(source), source).eval()
    return PictureClassifier(net, *_settings(locate(source).folder / SETTINGS))


def names_of(source: str) -> list[str]:
    """(C,) what a network can call a picture; its weights are not read.

    Raises:
        WeightsError: nothing there, or another network.
    """
    found: dict[int, str] = _config(source).id2label
    return [found[number] for number in sorted(found)]


def _config(source: str) -> Any:
    config = read_config(source)
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise WeightsError(
            f"{source}: a {config.model_type}, which does not name pictures; give a network for image classification"
        )
    return config


def _settings(file: Path) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Size, mean and deviation as transformers' image processors write them."""
    try:
        found = json.loads(file.read_bytes())
        size = found.get("crop_size") or found["size"]
        if isinstance(size, dict):
            side = size.get("shortest_edge")
            size = (size.get("height", side), size.get("width", side))
        height, width = (size, size) if isinstance(size, int) else size
        mean, std = (tuple(map(float, found[name])) for name in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and deviation of three colours are needed")
        return (int(height), int(width)), mean, std
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{file}: missing or without size, image_mean and image_std ({error}); it belongs beside the weights"
        ) from error
