"""Training a segmenter on pairs, real or synthetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor, nn

from models.draws import Draws
from models.labels import LabelSpace
from models.segmenter import Segmenter, grown
from models.segmenters import JOINT, SegmenterName, build_segmenter, load_segmenter
from models.weights import WEIGHTS
from pipeline.base.errors import ConfigError
from pipeline.evaluation.metrics import (
    boundary_iou,
    boundary_pixels,
    class_ious,
    confusion_matrix,
    mean_iou,
    pixel_accuracy,
)
from pipeline.evaluation.spread import cells, to_bytes
from pipeline.pictures.sheets import sheet
from pipeline.storage.copies import local_copy
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.schema import Batch
from pipeline.training.task import Evaluation, Tensors
from pipeline.training.tasks.augment import Augmentation, augmented, copy_pasted
from pipeline.training.tasks.pictures import chunks, mirrored, to_float_image
from pipeline.training.tasks.relabelling import TEACHER, Relabelling, Teacher

CELLS = "confusion.npz"
"""The confusion of each held-out picture, beside the scores."""
NUM_SHOWN = 8
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Of a picture, at which it is looked at for a prediction at several scales, as mmsegmentation does."""


@dataclass(frozen=True)
class SegmenterTask:
    """The network's own loss over known pixels.

    Attributes:
        labels: the classes.
        segmenter: the network.
        width: channels of the stem of "unet_small".
        size_px: side at which the middle of every picture is taken; 0 takes them as they are.
        pretrained: weights to begin with: a file, a folder or a name on the hub.
        augmentation: how pictures are varied; None mirrors and recolours them a little.
        multi_scale: judge also with predictions at several scales, mirrored and not.
        copy_paste: lay objects of other rows on half of the pictures first.
        initial: folder of the weights of an earlier training to go on from; "" begins anew.
        relabelling: draw masks that no people drew anew while training.
    """

    labels: LabelSpace
    segmenter: SegmenterName
    width: int
    size_px: int = 0
    pretrained: str = ""
    augmentation: Augmentation | None = None
    multi_scale: bool = False
    copy_paste: bool = False
    initial: str = ""
    relabelling: Relabelling | None = None
    judged_by = ("miou", -1)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("image", "mask", *(["origin"] if self.relabelling else []))

    def decode(self, batch: Batch) -> Batch:
        decoded = decode_pairs(batch, self.size_px)
        if "mask" in decoded:
            decoded["mask"] = self.labels.as_learned(decoded["mask"])
        if self.relabelling:
            decoded["made"] = np.array([one not in ("real", None) for one in batch["origin"]])
        return decoded

    def build(self) -> nn.Module:
        net = self._begun()
        if self.relabelling:
            net.teacher = Teacher(net)
        return net

    def _begun(self) -> Segmenter:
        if not self.initial:
            begin = str(local_copy(self.pretrained)) if self.segmenter in JOINT else self.pretrained
            return build_segmenter(self.segmenter, self.labels.num_classes + 1, self.width, begin)
        net = self.load(local_copy(self.initial)).train()
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, net: nn.Module, batch: Tensors, draws: Draws) -> tuple[Tensor, Tensors]:
        if self.segmenter.startswith("deeplabv3") and net.training and len(batch["mask"]) < 2:
            raise ConfigError(
                f"{self.segmenter} learns from two pictures at a time or more: its norm over the whole picture has no "
                "spread in one. Make optimisation.batch_size larger, or accumulation or workers.num smaller"
            )
        if self.relabelling:
            batch = self.relabelling(net, batch, draws.step)
        image, mask = self.varied(batch, draws)
        seeds = draws.seeds()
        if self.segmenter != "unet_small":
            torch.manual_seed(seeds[0])  # of dropout, so that a training that was stopped goes on as if it were not
        image = image.contiguous(memory_format=torch.channels_last)
        return net(image, mask, self.labels.ignore_index, seeds), {}

    def varied(self, batch: Tensors, draws: Draws) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) float32 in [-1, 1] and masks (B, H, W) as the network sees them in training."""
        if self.copy_paste:
            batch = copy_pasted(batch, self.labels.num_classes + 1, self.labels.ignore_index, draws)
        if self.augmentation:
            return augmented(batch, self.augmentation, self.labels.num_classes + 1, self.labels.ignore_index, draws)
        batch = mirrored(batch, draws)
        return recoloured(to_float_image(batch["image"]), draws), batch["mask"]

    def evaluate(self, net: nn.Module, held_out: Tensors) -> Evaluation:
        truth = held_out["mask"].cpu().numpy()
        predicted = self.predict(net, held_out["image"])
        kinds = (self.labels.num_classes + 1, self.labels.ignore_index)
        confusion = confusion_matrix(truth, predicted, *kinds)
        ious = zip(self.labels.classes, class_ious(confusion), strict=True)
        several: dict[str, float] = {}
        if self.multi_scale:
            predicted_so = self.predict(net, held_out["image"], multi_scale=True)
            several = {"miou_multi_scale": mean_iou(confusion_matrix(truth, predicted_so, *kinds))}
        shown = held_out["image"][:NUM_SHOWN].cpu().numpy()
        colours = [self.labels.colours(ids[:NUM_SHOWN]) for ids in (truth, predicted)]
        return Evaluation(
            {
                "miou": mean_iou(confusion),
                "pixel_accuracy": pixel_accuracy(confusion),
                "boundary_iou": boundary_iou(boundary_pixels(truth, predicted, *kinds)),
                **several,
                **{f"iou/{name}": float(iou) for name, iou in ious if np.isfinite(iou)},  # of classes that occur
            },
            {"predictions": sheet([shown, *colours])},
            {CELLS: to_bytes(cells(truth, predicted, *kinds))},
        )

    @torch.no_grad()
    def predict(self, net: nn.Module, image: Tensor, *, multi_scale: bool = False) -> np.ndarray:
        """(B, H, W, 3) uint8 -> (B, H, W) class ids, in chunks; id 0 only where it is a class.

        Args:
            net: the network, in evaluation mode.
            image: pictures.
            multi_scale: average over `SCALES`, mirrored and not.
        """
        look = averaged_scores if multi_scale else nn.Module.__call__
        parts = [look(net, to_float_image(part))[:, self.first :].argmax(1) + self.first for part in chunks(image)]
        return np.concatenate([part.cpu().numpy().astype(self.labels.dtype) for part in parts])

    @property
    def first(self) -> int:
        """The lowest id that is a class."""
        return 1 if self.labels.zero == "other" else 0

    @torch.no_grad()
    def answer(self, nets: Sequence[nn.Module], image: Tensor, weights: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """What several networks see together: the mean of their shares of classes, weighed.

        Args:
            nets: in evaluation mode.
            image: (B, H, W, 3) uint8.
            weights: (B, K + 1) of each class in each picture; a class of weight 0 is never answered.

        Returns:
            Class ids (B, H, W), and the share of each among all that was weighed, (B, H, W) uint8, times 255.
        """
        ids, sure = [], []
        start = 0
        for part in chunks(image):
            shares = self.shares(nets, part)
            some = weights[start : start + len(part), :, None, None].to(shares)
            # Zero may be a share too, and must not win where nothing that may be answered has any.
            weighed = torch.where(some > 0, shares * some, -1)[:, self.first :]
            top, best = weighed.max(1)
            ids.append((best + self.first).cpu().numpy().astype(self.labels.dtype))
            total = weighed.clamp(min=0).sum(1).clamp(min=torch.finfo(torch.float32).tiny)
            sure.append((top / total * 255).round().to(torch.uint8).cpu().numpy())
            start += len(part)
        return np.concatenate(ids), np.concatenate(sure)

    @torch.no_grad()
    def shares(self, nets: Sequence[nn.Module], image: Tensor) -> Tensor:
        """The mean of several networks' shares of classes in pictures (B, H, W, 3) uint8: (B, K + 1, H, W)."""
        view = to_float_image(image)
        return torch.stack([cast(Segmenter, net).shares(grown(net(view), view)) for net in nets]).mean(0)

    def load(self, folder: Path) -> Segmenter:
        """What `save` wrote, ready to predict."""
        bundle = str(local_copy(self.pretrained)) if self.segmenter in JOINT else ""
        return load_segmenter(self.segmenter, self.labels.num_classes + 1, self.width, folder / WEIGHTS, bundle)

    def save(self, net: nn.Module, examples: Tensors, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in net.state_dict().items() if not name.startswith(TEACHER)}
        save_file({name: value.cpu().contiguous() for name, value in kept.items()}, folder / WEIGHTS)


def averaged_scores(net: nn.Module, image: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, K + 1, H, W): the mean over scales, mirrored and not, of each view's shares of classes."""
    total = torch.zeros((), device=image.device)
    for scale in SCALES:
        size = [max(1, round(side * scale)) for side in image.shape[-2:]]
        view = image if scale == 1 else functional.interpolate(image, size, mode="bilinear", align_corners=False)
        for scores in (net(view), net(view.flip(-1)).flip(-1)):
            total = total + cast(Segmenter, net).shares(grown(scores, image))
    return total / (2 * len(SCALES))


def recoloured(image: Tensor, draws: Draws) -> Tensor:
    """Brightness, contrast and saturation of each (3, H, W) in [-1, 1] changed by up to 30 %."""

    def factors() -> Tensor:
        return 0.7 + 0.6 * draws.uniform((1, 1, 1))

    grey = image.mean(1, keepdim=True)
    saturated = grey + (image - grey) * factors()
    mean = saturated.mean((1, 2, 3), keepdim=True)
    contrasted = mean + (saturated - mean) * factors()
    return (contrasted + factors() - 1).clamp(-1, 1)
