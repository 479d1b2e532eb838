"""The noise process and the joint loss: pure functions of tensors.

Legend: B pairs; a time is a number from 0 (clean) to 1000 (noise), shared by image, CLIP image and mask of a pair; the
text has a time of its own (UniDiffuser, Eq. 5), and so has the mask where `Diffusion.mask_time` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from models.draws import Draws
from models.jodiffusion import Joint

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

NUM_TIMES = 1000
Objective = Literal["epsilon", "v", "flow"]
TextNoise = Literal["independent", "dropout"]
MaskTime = Literal["shared", "independent"]
Solver = Literal["ddim", "dpmsolver++2", "dpmsolver++3", "unipc2", "unipc3"]
Denoiser = Callable[..., tuple[Joint, Tensor]]
"""As `JoDiffusion.forward`; gets a mask time only where that is not the image's."""


@dataclass(frozen=True)
class Diffusion:
    """Which process noises a pair, and what the network predicts.

    Attributes:
        objective: "epsilon" is the paper's: a variance-preserving process, the network predicts the noise. "v": the
            same process, the network predicts signal weight * noise - noise weight * clean (Progressive Distillation,
            appendix D). "flow" is rectified flow: a straight line to the noise, the network predicts its velocity
            (noise - clean), with logit-normal times (Stable Diffusion 3, section 3.1). It learns faster on a small
            budget.
        time_shift: s of t -> s t / (1 + (s - 1) t), applied to training times and to the solver's grid (Stable
            Diffusion 3, Eq. 23; "flow" only). The cells of a mask repeat each other, so noise hides a class only at
            late times: above 1, more of both lies there.
        text_noise: "independent" is the paper's code: text is noised at a time of its own and its noise predicted too.
            "dropout" is the paper's text: clean text, replaced by pure noise for some pairs, and no text loss.
        text_dropout: share of pairs that train without text, 0 to 1 ("dropout" only).
        mask_time: "shared" is the paper's: one time for image and mask. "independent" noises the mask at a time of its
            own, so that the network learns masks of given images and images of given masks too (UniDiffuser, section
            3); it then needs `JoDiffusionConfig.mask_time`.
        beta_start, beta_end: the scaled-linear schedule of Stable Diffusion (not of "flow").
    """

    objective: Objective = "epsilon"
    time_shift: float = 1.0
    text_noise: TextNoise = "independent"
    text_dropout: float = 0.1
    mask_time: MaskTime = "shared"
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def __post_init__(self) -> None:
        if not 0 <= self.text_dropout <= 1:
            raise ValueError(f"text_dropout is a share, 0 to 1, got {self.text_dropout}")
        if not 0 < self.time_shift < math.inf:
            raise ValueError(f"time_shift must be above 0 and finite, got {self.time_shift}")
        if self.objective != "flow" and self.time_shift != 1:
            raise ValueError(f"time_shift belongs to objective flow; leave it out for {self.objective}")

    def scheduler(self, solver: Solver) -> SchedulerMixin:
        """diffusers' solver of the reverse process, for this noise process."""
        # Not above: most processes solve nothing, and diffusers would be a third of their start.
        from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

        # DDIM is DPM-Solver++ of order 1 (DPM-Solver++, section 4.1).
        order = int(solver[-1]) if solver[-1].isdigit() else 1
        kind = UniPCMultistepScheduler if solver.startswith("unipc") else DPMSolverMultistepScheduler
        if self.objective == "flow":
            return kind(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.time_shift, solver_order=order
            )
        return kind(
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            beta_schedule="scaled_linear",
            solver_order=order,
            prediction_type="v_prediction" if self.objective == "v" else "epsilon",
        )

    def signal_and_noise(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of clean value and noise at `times` (B,), each (B,) float32 (DDPM, Eq. 4, or a straight line)."""
        if self.objective == "flow":
            return 1 - times / NUM_TIMES, times / NUM_TIMES
        kept = _kept_signal(self.beta_start, self.beta_end, times.device)[times.long()]
        return kept.sqrt(), (1 - kept).sqrt()

    def draw_times(self, draws: Draws) -> Tensor:
        """(B,) float32 training times: whole and uniform, or shifted logit-normal for flow."""
        if self.objective == "flow":
            # The shift adds ln s to the logit of a time.
            return (draws.normal() + math.log(self.time_shift)).sigmoid() * NUM_TIMES
        return draws.whole(NUM_TIMES)

    def noised(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """(B, ...) clean values and standard-normal noise -> values at `times` (B,)."""
        signal_weight, noise_weight = self._weights(clean, times)
        return signal_weight * clean + noise_weight * noise

    def target(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the network should predict of (B, ...) values at `times` (B,), of the same shape."""
        if self.objective == "flow":
            return noise - clean
        if self.objective == "epsilon":
            return noise
        signal_weight, noise_weight = self._weights(clean, times)
        return signal_weight * noise - noise_weight * clean

    def clean(self, noisy: Tensor, predicted: Tensor, times: Tensor) -> Tensor:
        """The clean values (B, ...) that a prediction for noisy ones at `times` (B,) amounts to: the inverse of
        `target`. For epsilon times must be below NUM_TIMES: pure noise tells nothing of the clean value."""
        signal_weight, noise_weight = self._weights(noisy, times)
        if self.objective == "epsilon":
            return (noisy - noise_weight * predicted) / signal_weight
        if self.objective == "v":
            return signal_weight * noisy - noise_weight * predicted
        return noisy - noise_weight * predicted

    def min_snr_weights(self, times: Tensor, gamma: float) -> Tensor:
        """(B,) weights of squared errors of the prediction at `times`, by which each time counts as the squared error
        of the clean value times min(SNR, gamma) (Min-SNR weighting, section 3.4)."""
        signal_weight, noise_weight = self.signal_and_noise(times)
        snr = (signal_weight / noise_weight.clamp(min=1e-6)) ** 2
        # The squared error of the clean value for one of the prediction.
        clean_error = 1 / snr.clamp(min=1e-12) if self.objective == "epsilon" else noise_weight**2
        return snr.clamp(max=gamma) * clean_error

    def _weights(self, like: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of clean value and noise, as many axes as `like` has."""
        signal_weight, noise_weight = (
            weight.view(-1, *[1] * (like.ndim - 1)) for weight in self.signal_and_noise(times)
        )
        return signal_weight, noise_weight


@lru_cache(8)
def _kept_signal(beta_start: float, beta_end: float, device: torch.device) -> Tensor:
    """(NUM_TIMES,) float32 share of the clean value's variance that is left at each time (DDPM, Eq. 4), worked out on
    the CPU for all devices alike, and copied to each once: a copy makes the host wait for the device."""
    with torch.inference_mode(False):
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, NUM_TIMES, dtype=torch.float32, device="cpu") ** 2
        return torch.cumprod(1 - betas, dim=0).to(device)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the mean squared error of each modality. None: its share of all numbers, as in the paper's one mean.

    Attributes:
        image: of the image latent.
        clip_image: of the CLIP image embedding.
        mask: of the mask latent.
        text: of the text embedding, where it is noised.
        min_snr: gamma of Min-SNR weighting, which counts late times less; 5 is its authors' choice, 0 weighs all alike.
    """

    image: float | None = None
    clip_image: float | None = None
    mask: float | None = None
    text: float | None = None
    min_snr: float = 0.0


class Errors(NamedTuple):
    """Squared errors (B,) of one modality, each the mean over a pair's values, at its times (B,)."""

    squared: Tensor
    times: Tensor


def joint_loss(
    denoise: Denoiser,
    diffusion: Diffusion,
    clean: Joint,
    text: Tensor,
    weights: LossWeights,
    draws: Draws,
    mask_weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Errors]]:
    """The joint training loss (JoDiffusion, section "Joint diffusion"; UniDiffuser, Eq. 5).

    A picture without a mask teaches the picture alone: in place of its mask the network gets pure noise, at the last
    time where masks have times of their own, as UniDiffuser's marginal distributions are learned.

    Args:
        denoise: the network.
        clean: normalised latents of a batch of pairs, on the device of `draws`.
        text: (B, T, E) float text embedding.
        weights: how modalities are weighed.
        draws: every random number of the step, a stream for each pair.
        mask_weight: (B, h, w) weights in [0, 1] of the cells of the mask latent in its error, which stays a mean over
            all cells; all 0 is a picture without a mask. None is 1 everywhere.

    Returns:
        The scalar loss, and the errors of each modality, weighed by time if `weights` say so (detached); NaN for the
        masks of pictures that have none.
    """
    times = diffusion.draw_times(draws)
    own_mask_time = diffusion.mask_time == "independent"
    mask_times = diffusion.draw_times(draws) if own_mask_time else times
    at = Joint(times, times, mask_times)
    noise = Joint(*(draws.normal(value.shape[1:]) for value in clean))
    noisy = Joint(*(diffusion.noised(value, eps, t) for value, eps, t in zip(clean, noise, at, strict=True)))
    has_mask = torch.ones_like(times, dtype=torch.bool)
    if mask_weight is not None:
        has_mask = mask_weight.flatten(1).amax(1) > 0
        noisy = noisy._replace(mask=torch.where(has_mask.view(-1, 1, 1, 1), noisy.mask, noise.mask))

    text_noise = draws.normal(text.shape[1:])
    if diffusion.text_noise == "independent":
        text_times = diffusion.draw_times(draws)
        noisy_text = diffusion.noised(text, text_noise, text_times)
    else:
        dropped = draws.uniform() < diffusion.text_dropout
        text_times = dropped.float() * NUM_TIMES
        noisy_text = torch.where(dropped.view(-1, 1, 1), text_noise, text)

    def error(predicted: Tensor, value: Tensor, eps: Tensor, at: Tensor, weight: Tensor | None = None) -> Tensor:
        target = diffusion.target(value, eps, at)
        squares = (predicted.float() - target.float()).square()
        squared = (squares if weight is None else squares * weight).flatten(1).mean(1)
        return squared * diffusion.min_snr_weights(at, weights.min_snr) if weights.min_snr else squared

    shown_times = [torch.where(has_mask, mask_times, NUM_TIMES)] if own_mask_time else []
    prediction, text_prediction = denoise(noisy, noisy_text, times, text_times, *shown_times)
    cells = Joint(None, None, None if mask_weight is None else mask_weight.unsqueeze(1))  # type: ignore[arg-type]
    parts = zip(Joint._fields, prediction, clean, noise, at, cells, strict=True)
    errors = {name: Errors(error(*values), values[-2]) for name, *values in parts}
    num_values = {name: getattr(clean, name)[0].numel() for name in Joint._fields}
    if diffusion.text_noise == "independent":
        errors["text"] = Errors(error(text_prediction, text, text_noise, text_times), text_times)
        num_values["text"] = text[0].numel()

    total = sum(num_values.values())
    shares = {name: count / total for name, count in num_values.items()}
    loss = torch.zeros((), device=text.device)
    for name, (squared, _) in errors.items():
        weight = getattr(weights, name)
        loss = loss + (shares[name] if weight is None else weight) * squared.mean()
    if diffusion.text_noise != "independent":
        # DistributedDataParallel demands that every parameter takes part.
        loss = loss + 0 * text_prediction.float().sum()
    told = {name: Errors(squared.detach(), at) for name, (squared, at) in errors.items()}
    return loss, told | {"mask": told["mask"]._replace(squared=told["mask"].squared.where(has_mask, torch.nan))}
