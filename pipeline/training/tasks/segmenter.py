"""Training a segmenter on pairs, real or synthetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.draws import Draws
from models.labels import LabelSpace
from models.segmenters import SegmenterName, build_segmenter
from models.weights import WEIGHTS
from pipeline.evaluation.metrics import class_ious, confusion_matrix, mean_iou, pixel_accuracy
from pipeline.pictures.sheets import sheet
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.schema import Batch
from pipeline.training.task import Evaluation, Tensors
from pipeline.training.tasks.pictures import chunks, cross_entropy, mirrored, to_float_image

NUM_SHOWN = 8


@dataclass(frozen=True)
class SegmenterTask:
    """Cross-entropy over known pixels, with mirrored and recoloured pictures, as segmenters are usually trained."""

    labels: LabelSpace
    segmenter: SegmenterName
    width: int
    size_px: int = 0
    columns: tuple[str, ...] = ("image", "mask")
    judged_by = ("miou", -1)

    def decode(self, batch: Batch) -> Batch:
        decoded = decode_pairs(batch, self.size_px)
        mask = decoded["mask"]
        if self.labels.zero == "other":
            decoded["mask"] = np.where(mask == 0, mask.dtype.type(self.labels.ignore_index), mask)
        return decoded

    def build(self) -> nn.Module:
        net = build_segmenter(self.segmenter, self.labels.num_classes + 1, self.width)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, net: nn.Module, batch: Tensors, draws: Draws) -> tuple[Tensor, Tensors]:
        batch = mirrored(batch, draws)
        image = recoloured(to_float_image(batch["image"]), draws)
        logits = net(image.contiguous(memory_format=torch.channels_last))
        return cross_entropy(logits, batch["mask"], self.labels.ignore_index), {}

    def evaluate(self, net: nn.Module, held_out: Tensors) -> Evaluation:
        truth = held_out["mask"].cpu().numpy()
        predicted = self.predict(net, held_out["image"])
        confusion = confusion_matrix(truth, predicted, self.labels.num_classes + 1, self.labels.ignore_index)
        ious = zip(self.labels.classes, class_ious(confusion), strict=True)
        shown = held_out["image"][:NUM_SHOWN].cpu().numpy()
        colours = [self.labels.colours(ids[:NUM_SHOWN]) for ids in (truth, predicted)]
        return Evaluation(
            {
                "miou": mean_iou(confusion),
                "pixel_accuracy": pixel_accuracy(confusion),
                **{f"iou/{name}": float(iou) for name, iou in ious if np.isfinite(iou)},  # of classes that occur
            },
            {"predictions": sheet([shown, *colours])},
        )

    @torch.no_grad()
    def predict(self, net: nn.Module, image: Tensor) -> np.ndarray:
        """(B, H, W, 3) uint8 -> (B, H, W) class ids, in chunks; id 0 only where it is a class."""
        first = 1 if self.labels.zero == "other" else 0
        parts = [net(to_float_image(part))[:, first:].argmax(1) + first for part in chunks(image)]
        return np.concatenate([part.cpu().numpy().astype(self.labels.dtype) for part in parts])

    def load(self, folder: Path) -> nn.Module:
        """What `save` wrote, ready to predict."""
        net = self.build()
        net.load_state_dict(load_file(folder / WEIGHTS))
        return net.eval()

    def save(self, net: nn.Module, examples: Tensors, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.cpu().contiguous() for name, value in net.state_dict().items()}, folder / WEIGHTS)


def recoloured(image: Tensor, draws: Draws) -> Tensor:
    """Brightness, contrast and saturation of each (3, H, W) in [-1, 1] changed by up to 30 %."""

    def factors() -> Tensor:
        return 0.7 + 0.6 * draws.uniform((1, 1, 1))

    grey = image.mean(1, keepdim=True)
    saturated = grey + (image - grey) * factors()
    mean = saturated.mean((1, 2, 3), keepdim=True)
    contrasted = mean + (saturated - mean) * factors()
    return (contrasted + factors() - 1).clamp(-1, 1)
