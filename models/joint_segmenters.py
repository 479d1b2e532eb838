"""A joint network as a segmenter: a head of a few layers on what it makes of a picture, or its own masks of pictures.

It has seen all pictures, so that a head needs few masks (label-efficient segmentation with diffusion models, ICLR
2022). The joint network itself is frozen and no part of the segmenter's weights: it is read from its bundle when the
first picture comes.

Legend: B pictures, H and W pixels, K classes without id 0, D width of the joint network, S cells per side of a latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.diffusion import NUM_TIMES
from models.frozen import clip_image_embedding, image_to_latent
from models.jodiffusion import JoDiffusion, JoDiffusionConfig, Joint
from models.reverse import SamplerSettings
from models.sampler import PairSampler
from models.segmenter import Segmenter, grown
from models.weights import Bundle, WeightsError, load_config, read_facts

TIMES = (50, 250, 500)
"""At which the picture is looked at, of NUM_TIMES: edges show early, what things are shows late."""
NUM_SEEN = 4
"""Masks that are sampled for a picture, where the joint network itself answers."""


@lru_cache(2)
def frozen(folder: str, device: str) -> Bundle:
    """A bundle that nothing changes, once a process and device.

    Raises:
        WeightsError: something is missing or does not fit, or the bundle was distilled.
    """
    bundle = Bundle.load(folder)
    if bundle.student:
        raise WeightsError(f"{folder}: was distilled and knows no pictures; give the bundle that taught it")
    bundle.encoders.to(torch.device(device))
    bundle.net.to(device).requires_grad_(False)
    return bundle


class JointHead(Segmenter):
    """A head on the features of two blocks of a joint network, at several times, and on the pixels for the edges.

    Args:
        num_outputs: K + 1.
        folder: of the bundle.
        width: channels of the head.

    Raises:
        WeightsError: no bundle there.
    """

    def __init__(self, num_outputs: int, folder: str, width: int = 64) -> None:
        super().__init__()
        self.folder = folder
        config = load_config(JoDiffusionConfig, Path(folder) / "joint")
        self.side, self.size_px = config.latent_size // config.patch_size, read_facts(folder).image_size_px
        channels = len(TIMES) * 4 * config.width  # of image and mask tokens, of two blocks
        self.features = nn.Sequential(nn.Conv2d(channels, 2 * width, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.pixels = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Conv2d(3 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, num_outputs, 1),
        )

    def scores(self, image: Tensor) -> Tensor:
        pixels = self.pixels(image)
        seen = self.features(self.seen(image).to(pixels.dtype))
        return grown(self.head(torch.cat([grown(seen, pixels), pixels], 1)), image)

    @torch.no_grad()
    def seen(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 4 D times, S / P, S / P): without text or mask, the noise always the same."""
        if image.is_meta:
            raise NotImplementedError("the joint network is not read where only sizes are worked out")
        bundle = frozen(self.folder, str(image.device))
        net, encoders, diffusion = bundle.net, bundle.encoders, bundle.diffusion
        sized = functional.interpolate(image.float(), (self.size_px, self.size_px), mode="bilinear", antialias=True)
        clean = image_to_latent(encoders.image_vae, sized), clip_image_embedding(encoders.clip_image, sized)
        num, config = len(image), net.config
        shapes = (
            clean[0].shape[1:],
            clean[1].shape[1:],
            (config.mask_channels, config.latent_size, config.latent_size),
            (config.num_text_tokens, config.text_width),
        )
        generator = torch.Generator().manual_seed(0)
        noise = [torch.randn(shape, generator=generator).to(image.device).expand(num, *shape) for shape in shapes]
        late = torch.full((num,), float(NUM_TIMES), device=image.device)
        found = []
        for time in TIMES:
            times = torch.full((num,), float(time), device=image.device)
            latent, embedding = (
                diffusion.noised(value.float(), eps, times) for value, eps in zip(clean, noise, strict=False)
            )
            with self._watched(net) as blocks:
                net(Joint(latent, embedding, noise[2]), noise[3], times, late, *([late] if config.mask_time else []))
            patches = 2 * config.num_patches
            found += [part for x in blocks for part in x[:, -patches:].float().split(config.num_patches, 1)]
        return torch.cat(found, 2).transpose(1, 2).unflatten(2, (self.side, self.side))

    @staticmethod
    @contextmanager
    def _watched(net: JoDiffusion) -> Iterator[list[Tensor]]:
        """What two of the late blocks make, of a pass inside."""
        found: list[Tensor] = []
        blocks = net.transformer.transformer_out_blocks
        hooks = [
            blocks[place].register_forward_hook(lambda _block, _given, x: found.append(x))
            for place in (len(blocks) // 3, len(blocks) - 1)
        ]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()


class JointMasks(Segmenter):
    """The masks that a joint network finds for pictures, the mean of several: nothing to train.

    Args:
        folder: of the bundle.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def scores(self, image: Tensor) -> Tensor:
        """The logarithm of the mean share of each class."""
        bundle = frozen(self.folder, str(image.device))
        sampler = _sampler(self.folder, str(image.device))
        size = bundle.image_size_px
        sized = functional.interpolate(image.float(), (size, size), mode="bilinear", antialias=True)
        pixels = ((sized.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        most = sampler.settings.batch_size
        parts = []
        for start in range(0, len(pixels), most):
            part = pixels[start : start + most]
            seeds: list[Sequence[int]] = [[seed] * len(part) for seed in range(NUM_SEEN)]
            parts.append(torch.stack([sampler.shares_of(part, [""] * len(part), one) for one in seeds]).mean(0))
        return grown(torch.cat(parts), image).clamp(min=1e-6).log()

    def training_loss(self, image: Tensor, mask: Tensor, ignore_index: int, seeds: Sequence[int] = ()) -> Tensor:
        raise NotImplementedError("the joint network is trained by jobs.train_joint")


@lru_cache(1)
def _sampler(folder: str, device: str) -> PairSampler:
    settings = SamplerSettings(steps=20, guidance=1.0, batch_size=32)
    return PairSampler(frozen(folder, device), settings, device)
