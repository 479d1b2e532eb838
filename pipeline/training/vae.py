"""Training the two autoencoders: of masks (AnnotationVAE) and of images (diffusers' AutoencoderKL)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as functional
from pydantic import Field
from torch import Tensor, nn

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.draws import Draws
from models.labels import LabelSpace
from models.weights import load_net, save_net
from pipeline.evaluation import class_ious, confusion_matrix, mean_iou
from pipeline.pictures.sheets import sheet
from pipeline.runs.run import Run
from pipeline.tables.label_space import common_labels
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import Batch
from pipeline.training.config import SAFE_TO_CHANGE, TrainingConfig
from pipeline.training.fit import fit
from pipeline.training.pictures import chunks, cross_entropy, decode_pairs, mirrored, to_float_image
from pipeline.training.task import Evaluation, Task, Tensors

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

NUM_SHOWN = 8


class VAEConfig(TrainingConfig):
    """Trains one of the two autoencoders on pairs."""

    net: Literal["annotation", "image"]
    """Which autoencoder: "annotation" for masks, "image" for images."""
    size_px: int = Field(0, ge=0)
    """Side at which the middle of every picture is taken; 0 takes them as they are, all of one size."""
    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels per resolution; the latent is 2 ** (number - 1) times smaller than the picture."""
    latent_channels: int = Field(4, ge=1)
    """Channels of the latent."""
    decoder_width: int = Field(512, ge=4)
    """Channels of the annotation VAE's decoder."""
    sample_posterior: bool = True
    """Decode a draw from the posterior in training, as the paper does for masks, rather than its mean."""
    latent_noise: float = Field(0.0, ge=0)
    """Further noise on latents in training, up to this share of their spread: decoders then forgive what diffusion gets
    slightly wrong. The paper uses none."""


def train_vae(config: VAEConfig) -> dict[str, float]:
    """Trains the autoencoder and leaves its weights in `<run>/weights`; returns its scores on held-out pairs."""
    with Run.open(config, "train_vae", SAFE_TO_CHANGE, on_store=True) as run:
        annotation = config.net == "annotation"
        task: Task = (
            AnnotationTask(common_labels([*config.train, config.validation]), config)
            if annotation
            else ImageTask(config)
        )
        return fit(task, config, run)


class Posterior(Protocol):
    """What both autoencoders make of a picture: (B, C, h, w) each."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def std(self) -> Tensor: ...


def chosen_latent(posterior: Posterior, config: VAEConfig, draws: Draws) -> Tensor:
    """The latent that training decodes: mean or draw, and noise of a strength drawn for each row between 0 and
    `latent_noise` times the batch's spread per channel."""
    latent = posterior.mean

    def normal() -> Tensor:
        return draws.normal(latent.shape[1:]).to(latent)

    if config.sample_posterior:
        latent = latent + posterior.std * normal()
    if config.latent_noise:
        spread = posterior.mean.detach().std(dim=(0, 2, 3), keepdim=True)
        strength = config.latent_noise * draws.uniform((1, 1, 1))
        latent = latent + strength * spread * normal()
    return latent


def latent_statistics(latent: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (B, C, h, w)."""
    values = latent.float().transpose(0, 1).flatten(1)
    return tuple(values.mean(1).tolist()), tuple(values.std(1).tolist())


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
    confusion = np.zeros((num_outputs, num_outputs), np.int64)
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


@dataclass(frozen=True)
class ImageTask:
    """Images through a latent and back: squared and a little absolute error, a trace of KL to bound the latents."""

    config: VAEConfig
    columns: tuple[str, ...] = ("image",)
    judged_by = ("psnr_db", -1)

    def decode(self, batch: Batch) -> Batch:
        return decode_pairs(batch, self.config.size_px)

    def build(self) -> nn.Module:
        from diffusers import AutoencoderKL  # not above: the training of masks goes without

        widths = self.config.widths
        groups = next(n for n in range(max(1, min(32, widths[0] // 4)), 0, -1) if all(w % n == 0 for w in widths))
        return ImageAutoencoder(
            AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * len(widths),
                up_block_types=("UpDecoderBlock2D",) * len(widths),
                block_out_channels=widths,
                layers_per_block=1,
                latent_channels=self.config.latent_channels,
                norm_num_groups=groups,
                mid_block_add_attention=False,
                force_upcast=False,
            )
        )

    def loss(self, net: nn.Module, batch: Tensors, draws: Draws) -> tuple[Tensor, Tensors]:
        image = to_float_image(mirrored(batch, draws)["image"])
        output, kl = net(image, lambda posterior: chosen_latent(posterior, self.config, draws))
        squared = functional.mse_loss(output.float(), image)
        absolute = functional.l1_loss(output.float(), image)
        return squared + 0.1 * absolute + 1e-6 * kl, {"squared_error": squared.detach(), "kl": kl.detach()}

    def evaluate(self, net: nn.Module, held_out: Tensors) -> Evaluation:
        errors, shown = [], []
        for image in chunks(held_out["image"]):
            truth = to_float_image(image)
            output, _ = net(truth)
            errors.append(functional.mse_loss(output.float().clamp(-1, 1), truth, reduction="none").mean((1, 2, 3)))
            shown.append((truth, output))
        pictures = [
            ((rows[:NUM_SHOWN].float().clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).cpu().numpy()
            for rows in shown[0]
        ]
        # Peak to peak is 2 in [-1, 1].
        psnr = (10 * torch.log10(4 / torch.cat(errors))).mean().item()
        return Evaluation({"psnr_db": psnr}, {"reconstructions": sheet(pictures)})

    def save(self, net: nn.Module, examples: Tensors, folder: Path) -> None:
        vae = cast(ImageAutoencoder, net).vae
        latents = [vae.encode(to_float_image(part)).latent_dist.mean for part in chunks(examples["image"])]
        mean, std = latent_statistics(torch.cat(latents))
        vae.register_to_config(latents_mean=list(mean), latents_std=list(std))
        vae.save_pretrained(folder)


class ImageAutoencoder(nn.Module):
    """An AutoencoderKL whose forward pass goes through noised latents; one module, so that gradients are shared."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, image: Tensor, choose: Callable[[Posterior], Tensor] = lambda posterior: posterior.mean
    ) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] -> its reconstruction from the latent that `choose` takes, and the mean KL."""
        posterior = self.vae.encode(image).latent_dist
        return self.vae.decode(choose(posterior)).sample, posterior.kl().mean()
