"""From prompts to pairs: the guided reverse process, one noise stream per pair.

Legend: B pairs, T text tokens, E text width, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from models.diffusion import NUM_TIMES, Denoiser
from models.frozen import latent_to_image
from models.jodiffusion import Joint
from models.labels import LabelSpace
from models.weights import Bundle

Precision = Literal["float32", "bfloat16"]
DECODE_PIXELS = 2**20  # four pictures of 512 x 512 at once


@dataclass(frozen=True)
class SamplerSettings:
    """What decides a pair besides its prompt, its seed and the bundle.

    Attributes:
        steps: network evaluations along the reverse process.
        guidance: scale s of e = s * e_text + (1 - s) * e_notext; 1 or less turns guidance off and halves the cost. The
            paper uses 8.
        solver_order: order of DPM-Solver++, 2 or 3 (paper: 3).
        confidence_threshold: pixels whose top class probability is below it become what the label space says.
        precision: of the network and the decoders; the solver's state is always float32.
        batch_size: the one shape at which the nets run; short batches are padded to it.
    """

    steps: int = 50
    guidance: float = 8.0
    solver_order: Literal[2, 3] = 3
    confidence_threshold: float = 0.5
    precision: Precision = "bfloat16"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}")
        if not 0 <= self.confidence_threshold <= 1:
            raise ValueError(f"confidence_threshold is a probability, 0 to 1, got {self.confidence_threshold}")


class Pairs(NamedTuple):
    """What the sampler makes of B prompts, on the host.

    Attributes:
        image: (B, H, W, 3) uint8.
        mask: (B, H, W) class ids, uint8 or uint16.
        confidence: (B, H, W) uint8, top class probability times 255.
        finite: (B,) bool; False where the reverse process left the numbers.
    """

    image: np.ndarray
    mask: np.ndarray
    confidence: np.ndarray
    finite: np.ndarray


class NoiseStreams:
    """One stream of standard-normal numbers per pair, so that a pair's noise never depends on its batch.

    Numbers are drawn on the CPU, in the reference's order: image latent, CLIP image, mask latent, then one text noise a
    step. The same seed gives the same noise on every device.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32: the next numbers of every pair's stream."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self._generators])


def reverse_process(
    denoise: Denoiser,
    scheduler: DPMSolverMultistepScheduler,
    start: Joint,
    text: Tensor,
    steps: int,
    guidance: float,
    empty_text: Callable[[], Tensor],
) -> Joint:
    """Pure noise -> clean latents (JoDiffusion, section "Sampling"; classifier-free guidance in UniDiffuser, Eq. 8).

    Args:
        denoise: the network.
        start: standard-normal latents.
        text: (B, T, E) clean text embedding.
        guidance: s; above 1 each step also runs with `empty_text()`, standard-normal (B, T, E) at time 1000, in the
            same batch.

    Returns:
        The latents at time 0, float32.
    """
    scheduler.set_timesteps(steps, device=text.device)
    guided = guidance > 1
    num_pairs = len(text)
    shapes = [value.shape for value in start]
    sizes = [value[0].numel() for value in start]
    state = torch.cat([value.float().flatten(1) for value in start], dim=1)
    text_times = torch.zeros(num_pairs, device=text.device)
    if guided:
        text_times = torch.cat([text_times, text_times + NUM_TIMES])
    # The scheduler cuts its times to whole numbers, which flow was not trained on.
    times = NUM_TIMES * scheduler.sigmas[:-1] if scheduler.config.use_flow_sigmas else scheduler.timesteps.float()
    for time, exact in zip(scheduler.timesteps, times.to(text.device), strict=True):
        rows = torch.cat([state, state]) if guided else state
        texts = torch.cat([text, empty_text()]) if guided else text
        noisy = Joint(
            *(part.reshape(-1, *shape[1:]) for part, shape in zip(rows.split(sizes, dim=1), shapes, strict=True))
        )
        prediction, _ = denoise(noisy, texts, exact.expand(len(rows)), text_times)
        output = torch.cat([value.float().flatten(1) for value in prediction], dim=1)
        if guided:
            with_text, without_text = output.chunk(2)
            output = guidance * with_text + (1 - guidance) * without_text
        state = scheduler.step(output, time, state, return_dict=False)[0]
    return Joint(*(part.reshape(shape) for part, shape in zip(state.split(sizes, dim=1), shapes, strict=True)))


class PairSampler:
    """A bundle on a device, ready to turn prompts into pairs."""

    def __init__(self, bundle: Bundle, settings: SamplerSettings, device: str | torch.device = "cpu") -> None:
        self.bundle = bundle
        self.settings = settings
        self.device = torch.device(device)
        bundle.encoders.to(self.device)
        bundle.net.to(self.device)
        self._scheduler = bundle.diffusion.scheduler(settings.solver_order)

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Pairs:
        """At most `batch_size` prompts and as many noise seeds -> pairs.

        Pixels of a pair depend on its prompt, its seed, the settings and the kind of device, not on the other rows.
        """
        settings, bundle = self.settings, self.bundle
        num_pairs = len(prompts)
        if not 0 < num_pairs <= settings.batch_size or len(seeds) != num_pairs:
            raise ValueError(
                f"the sampler takes 1 to {settings.batch_size} prompts with one seed each, "
                f"got {num_pairs} prompts and {len(seeds)} seeds"
            )
        padding = settings.batch_size - num_pairs
        prompts = [*prompts, *[prompts[-1]] * padding]
        streams = NoiseStreams([*seeds, *[seeds[-1]] * padding])

        net = bundle.net.config
        start = Joint(
            image=streams.normal(net.image_channels, net.latent_size, net.latent_size).to(self.device),
            clip_image=streams.normal(1, net.clip_image_width).to(self.device),
            mask=streams.normal(net.mask_channels, net.latent_size, net.latent_size).to(self.device),
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            text = bundle.encoders.text(prompts)
            latents = reverse_process(
                bundle.net,
                self._scheduler,
                start,
                text,
                settings.steps,
                settings.guidance,
                lambda: streams.normal(*text.shape[1:]).to(self.device, text.dtype),
            )
            # Decoders hold hundreds of channels at full size: one chunk after the other bounds their memory.
            rows = max(1, DECODE_PIXELS // bundle.image_size_px**2)
            chunks = zip(*(value.split(rows) for value in latents), strict=True)
            decoded = [self._decode(Joint(*chunk)) for chunk in chunks]
        image, mask, confidence, finite = (
            torch.cat(parts)[:num_pairs].cpu().numpy() for parts in zip(*decoded, strict=True)
        )
        return Pairs(image, mask.astype(bundle.encoders.labels.dtype), confidence, finite)

    def _decode(self, latents: Joint) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents -> the four parts of `Pairs`, on the device."""
        encoders = self.bundle.encoders
        image = latent_to_image(encoders.image_vae, latents.image)
        logits = encoders.annotation_vae.decode(encoders.annotation_vae.denormalize(latents.mask))
        mask, confidence = classes_and_confidence(logits, encoders.labels, self.settings.confidence_threshold)
        finite = torch.stack([value.flatten(1).isfinite().all(1) for value in (*latents, image, logits)]).all(0)
        pixels = ((image.float().nan_to_num() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return pixels, mask, confidence, finite


def classes_and_confidence(logits: Tensor, labels: LabelSpace, threshold: float) -> tuple[Tensor, Tensor]:
    """Class logits (B, K + 1, H, W) -> class ids (B, H, W) int32 and top probabilities (B, H, W) uint8, 255 for 1.

    Pixels whose top probability is below `threshold` become background, as in the reference code, or the ignore index,
    as the label space says.
    """
    probability, mask = logits.float().softmax(1).max(1)
    uncertain = labels.ignore_index if labels.uncertain == "ignore" else 0
    mask = mask.int().masked_fill(~(probability >= threshold), uncertain)
    return mask, (probability.nan_to_num() * 255).round().to(torch.uint8)
