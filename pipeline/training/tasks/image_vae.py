"""Training the autoencoder of images (AutoencoderKL of diffusers)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.draws import Draws
from models.weights import forget_origin, pretrained
from pipeline.pictures.sheets import sheet
from pipeline.storage.copies import local_copy
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.schema import Batch
from pipeline.training.task import Evaluation, Tensors
from pipeline.training.tasks.pictures import chunks, mirrored, to_float_image

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
from pipeline.training.tasks.latents import NUM_SHOWN, Posterior, VAEConfig, chosen_latent, latent_statistics


@dataclass(frozen=True)
class ImageTask:
    """Images through a latent and back: squared and a little absolute error, a trace of KL to bound the latents; errors
    of edges and texture where they are asked for. With `decoder_of` the encoder of that VAE stays, and its latents."""

    config: VAEConfig
    columns: tuple[str, ...] = ("image",)

    @property
    def judged_by(self) -> tuple[str, int]:
        return ("loss", 1) if self.config.texture_weight else ("psnr_db", -1)  # texture costs squared error

    def decode(self, batch: Batch) -> Batch:
        return decode_pairs(batch, self.config.size_px)

    def build(self) -> nn.Module:
        from diffusers import AutoencoderKL  # not above: the training of masks goes without

        if self.config.decoder_of:
            given = pretrained(AutoencoderKL, local_copy(self.config.decoder_of)).requires_grad_(False).train()
            for part in (given.post_quant_conv, given.decoder):
                if part is not None:
                    part.requires_grad_(True)
            return ImageAutoencoder(given)
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
        loss, squared = self._error(output.float(), image)
        return loss + 1e-6 * kl, {"squared_error": squared.detach(), "kl": kl.detach()}

    def _error(self, output: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Of a reconstruction: as weighed in the loss, and squared alone."""
        squared = functional.mse_loss(output, image)
        error = squared + 0.1 * functional.l1_loss(output, image)
        if self.config.edge_weight:
            error = error + self.config.edge_weight * functional.l1_loss(laplacian(output), laplacian(image))
        if self.config.texture_weight:
            error = error + self.config.texture_weight * texture_error(output, image)
        return error, squared

    def evaluate(self, net: nn.Module, held_out: Tensors) -> Evaluation:
        errors, shown = [], []
        edges, loss = torch.zeros(2), 0.0
        for image in chunks(held_out["image"]):
            truth = to_float_image(image)
            output, _ = net(truth)
            loss += self._error(output.float(), truth)[0].item() * len(image) / len(held_out["image"])
            for place, one in enumerate((output.float().clamp(-1, 1), truth)):
                edges[place] += laplacian(one.mean(1, keepdim=True)).square().mean().cpu() * len(image)
            errors.append(functional.mse_loss(output.float().clamp(-1, 1), truth, reduction="none").mean((1, 2, 3)))
            shown.append((truth, output))
        pictures = [
            ((rows[:NUM_SHOWN].float().clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).cpu().numpy()
            for rows in shown[0]
        ]
        # Peak to peak is 2 in [-1, 1].
        psnr = (10 * torch.log10(4 / torch.cat(errors))).mean().item()
        scores = {"psnr_db": psnr, "sharpness": float(edges[0] / edges[1].clamp(min=1e-12)), "loss": loss}
        return Evaluation(scores, {"reconstructions": sheet(pictures)})

    def save(self, net: nn.Module, examples: Tensors, folder: Path) -> None:
        vae = cast(ImageAutoencoder, net).vae
        if self.config.decoder_of:  # those of its latents are known to what has learned on them
            vae.save_pretrained(folder)
            forget_origin(folder / "config.json")
            return
        latents = [vae.encode(to_float_image(part)).latent_dist.mean for part in chunks(examples["image"])]
        mean, std = latent_statistics(torch.cat(latents))
        vae.register_to_config(latents_mean=list(mean), latents_std=list(std))
        vae.save_pretrained(folder)


def laplacian(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H - 2, W - 2): four neighbours minus four times the pixel, of each channel."""
    inner = image[..., 1:-1, 1:-1]
    return image[..., :-2, 1:-1] + image[..., 2:, 1:-1] + image[..., 1:-1, :-2] + image[..., 1:-1, 2:] - 4 * inner


def texture_error(output: Tensor, image: Tensor) -> Tensor:
    """How far images (B, C, H, W) are from others in local texture: mean absolute difference of the root mean squares,
    over 4 x 4 pixels at every second one, of the Laplacian and of both differences between neighbours; their sum.

    A squared error is least where all that a latent does not say is blurred. This one asks for edges of the right
    strength where they are not known exactly (after Heeger and Bergen, SIGGRAPH 1995, who match what filters answer).
    """

    def strength(edges: Tensor) -> Tensor:
        return torch.sqrt(functional.avg_pool2d(edges.square(), 4, stride=2) + 1e-4)

    filters = (laplacian, lambda x: x[..., 1:] - x[..., :-1], lambda x: x[..., 1:, :] - x[..., :-1, :])
    return torch.stack([functional.l1_loss(strength(one(output)), strength(one(image))) for one in filters]).sum()


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
