"""Training the autoencoder of masks (AnnotationVAE)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.draws import Draws
from models.labels import LabelSpace
from models.weights import load_net, save_net
from pipeline.evaluation.metrics import class_ious, confusion_matrix, mean_iou
from pipeline.pictures.sheets import sheet
from pipeline.tables.label_space import common_labels
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import Batch
from pipeline.training.task import Evaluation, Tensors
from pipeline.training.tasks.latents import NUM_SHOWN, VAEConfig, chosen_latent, latent_statistics
from pipeline.training.tasks.pictures import chunks, cross_entropy, mirrored


@dataclass(frozen=True)
class AnnotationTask:
    """Masks through a latent and back; softmax cross-entropy alone (JoDiffusion, section "Annotation VAE")."""

    labels: LabelSpace
    config: VAEConfig
    columns: tuple[str, ...] = ("mask",)
    judged_by = ("miou", -1)

    def decode(self, batch: Batch) -> Batch:
        return decode_pairs(batch, self.config.size_px)

    def build(self) -> nn.Module:
        config = self.config
        net = AnnotationVAE(
            AnnotationVAEConfig.for_labels(self.labels, config.widths, config.decoder_width, config.latent_channels)
        )
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, net: nn.Module, batch: Tensors, draws: Draws) -> tuple[Tensor, Tensors]:
        mask = mirrored(batch, draws)["mask"]
        logits = net(mask, lambda posterior: chosen_latent(posterior, self.config, draws))
        return cross_entropy(logits, mask, self.labels.ignore_index), {}

    def evaluate(self, net: nn.Module, held_out: Tensors) -> Evaluation:
        return reconstruction(net, held_out["mask"], self.labels)

    def save(self, net: nn.Module, examples: Tensors, folder: Path) -> None:
        vae = cast(AnnotationVAE, net)
        mean, std = latent_statistics(torch.cat([vae.encode(part).mean for part in chunks(examples["mask"])]))
        vae.config = replace(vae.config, latent_mean=mean, latent_std=std)
        save_net(vae, folder)


def reconstruction(net: nn.Module, masks: Tensor, labels: LabelSpace) -> Evaluation:
    """How well masks (N, H, W) survive the way into the latent and back."""
    num_outputs = labels.num_classes + 1
    confusion = np.zeros((num_outputs, num_outputs + 1), np.int64)
    losses, shown = [], []
    for mask in chunks(masks):
        logits = net(mask)
        losses.append(cross_entropy(logits, mask, labels.ignore_index).item())
        predicted = logits.argmax(1).cpu().numpy()
        confusion += confusion_matrix(mask.cpu().numpy(), predicted, num_outputs, labels.ignore_index)
        shown.append((mask.cpu().numpy(), predicted))
    truth, predicted = shown[0]
    pictures = sheet([labels.colours(ids[:NUM_SHOWN]) for ids in (truth, predicted)])
    worst = float(np.nanmin(class_ious(confusion)))
    return Evaluation(
        {"loss": float(np.mean(losses)), "miou": mean_iou(confusion), "worst_iou": worst}, {"reconstructions": pictures}
    )


@torch.inference_mode()
def score_annotation_vae(run: Path, folder: str) -> dict[str, float]:
    """Scores of the trained annotation VAE of `run` on the masks of another set; kept in `<run>/test.json`."""
    net = load_net(AnnotationVAE, AnnotationVAEConfig, run / "weights").eval()
    rows = read_shards([folder], ["mask"])
    masks = decode_pairs({"mask": np.array(rows["mask"].to_pylist(), object)})["mask"]
    scores = reconstruction(net, torch.from_numpy(masks), common_labels([folder])).metrics
    (run / "test.json").write_text(json.dumps(scores, indent=1))
    return scores
