"""The reverse process: noise to clean latents, guided by text.

Legend: B pairs, T text tokens, E text width, N numbers of all latents of a pair side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from models.diffusion import NUM_TIMES, Denoiser, Diffusion, Solver
from models.jodiffusion import Joint
from models.precision import Precision
from models.uvit import without_autocast

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class SamplerSettings:
    """What decides a pair besides its prompt, its seed and the bundle. The defaults are the paper's.

    Attributes:
        steps: network evaluations along the reverse process.
        solver: "dpmsolver++3" is the paper's; all are diffusers', and "ddim" is DPM-Solver++ of order 1. The two of
            UniPC wait for the device at every step.
        guidance: scale s of e = s * e_text + (1 - s) * e_notext; 1 or less turns guidance off and halves the cost. None
            takes the bundle's own.
        guided_from, guided_to: guide only between these shares of the steps, from 0 (noise) to 1 (clean); the others
            cost half (Kynkaanniemi et al. 2024, section 3).
        confidence_threshold: pixels whose top class probability is below it become what the label space says.
        precision: of the networks; see `PairSampler` for what is always float32.
        compile: run the network through torch.compile: minutes at the start, for large runs.
        batch_size: the one shape at which the nets run; short batches are padded to it.
    """

    steps: int = 50
    solver: Solver = "dpmsolver++3"
    guidance: float | None = None
    guided_from: float = 0.0
    guided_to: float = 1.0
    confidence_threshold: float = 0.5
    precision: Precision = "bfloat16"
    compile: bool = False
    batch_size: int = 16

    def __post_init__(self) -> None:
        for value, known in ((self.solver, get_args(Solver)), (self.precision, get_args(Precision))):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(known)}")
        if not 0 < self.steps < NUM_TIMES or self.batch_size < 1:
            raise ValueError(
                f"steps lie between 1 and {NUM_TIMES - 1}, and batch_size is at least 1, got {self.steps} and "
                f"{self.batch_size}"
            )
        if not 0 <= self.confidence_threshold <= 1:
            raise ValueError(f"confidence_threshold is a probability, 0 to 1, got {self.confidence_threshold}")
        if not 0 <= self.guided_from <= self.guided_to <= 1:
            raise ValueError(
                "guided_from and guided_to are shares of the steps with 0 <= guided_from <= guided_to <= 1, got "
                f"{self.guided_from} and {self.guided_to}"
            )

    def resolved(self, guidance: float) -> SamplerSettings:
        """These settings, with a bundle's guidance where they name none."""
        return replace(self, guidance=guidance) if self.guidance is None else self

    def guided(self, step: int) -> bool:
        """Whether step number `step`, from 0, is guided."""
        assert self.guidance is not None, "settings are resolved before they are used"
        return self.guidance > 1 and round(self.guided_from * self.steps) <= step < round(self.guided_to * self.steps)


PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {"steps": 50, "solver": "dpmsolver++3", "guided_from": 0.0, "guided_to": 1.0},
    "fast": {"steps": 12, "solver": "dpmsolver++2", "guided_from": 0.0, "guided_to": 0.5},
}
"""The paper's way through the reverse process, 100 evaluations with guidance, and one of 18. The scale of guidance is
no part of them: it belongs to the bundle."""


def with_preset(settings: SamplerSettings, name: str) -> SamplerSettings:
    """`settings`, with the preset's values in place of its own."""
    return replace(settings, **PRESETS[name])


def reverse_process(
    denoise: Denoiser,
    scheduler: SchedulerMixin,
    start: Joint,
    text: Tensor,
    settings: SamplerSettings,
    empty_text: Callable[[], Tensor],
    known: Known | None = None,
    watch: Callable[[Tensor], None] = lambda difference: None,
) -> Joint:
    """Pure noise -> clean latents (JoDiffusion, section "Sampling"; classifier-free guidance in UniDiffuser, Eq. 8).

    With DPM-Solver++ nothing in the loop waits for the device: its times and coefficients are known on the host before
    it begins. diffusers' UniPC copies some of them over at every step.

    Args:
        denoise: the network.
        start: standard-normal latents.
        text: (B, T, E) clean text embedding.
        settings: steps and guidance. A guided step runs the network once, on 2 B rows: with the text, and with
            `empty_text()`, standard-normal (B, T, E) at time 1000.
        known: parts of the result.
        watch: is told at every guided step how far the predictions with and without text are apart, (B, N).

    Returns:
        The latents at time 0, float32.
    """
    scale = settings.guidance or 1.0
    scheduler.set_timesteps(settings.steps, device=text.device)
    scheduler.set_begin_index(0)  # else the scheduler looks its place up on the device, and the host waits
    num_pairs = len(text)
    shapes = [value.shape for value in start]
    sizes = [value[0].numel() for value in start]
    state = torch.cat([value.float().flatten(1) for value in start], dim=1)
    no_time = torch.zeros(num_pairs, device=text.device)
    # The scheduler cuts its times to whole numbers, which flow was not trained on.
    times = NUM_TIMES * scheduler.sigmas[:-1] if scheduler.config.use_flow_sigmas else scheduler.timesteps.float()
    times = times.to(text.device)
    held = known.along(times) if known else None
    for step, (time, exact) in enumerate(zip(scheduler.timesteps, times, strict=True)):
        if held:
            state = held.at(step, state)
        guided = settings.guided(step)
        rows = torch.cat([state, state]) if guided else state
        texts = torch.cat([text, empty_text()]) if guided else text
        text_times = torch.cat([no_time, no_time + NUM_TIMES]) if guided else no_time
        noisy = Joint(
            *(part.reshape(-1, *shape[1:]) for part, shape in zip(rows.split(sizes, dim=1), shapes, strict=True))
        )
        image_time, *mask_time = known.own_times(exact.expand(len(rows))) if known else [exact.expand(len(rows))]
        prediction, _ = denoise(noisy, texts, image_time, text_times, *mask_time)
        output = torch.cat([value.float().flatten(1) for value in prediction], dim=1)
        if guided:
            with_text, without_text = output.chunk(2)
            watch(with_text - without_text)
            output = scale * with_text + (1 - scale) * without_text
        with without_autocast(text.device):  # solvers multiply matrices too
            state = scheduler.step(output, time, state, return_dict=False)[0]
    if known:
        state = torch.where(known.is_known, known.clean, state)
    return Joint(*(part.reshape(shape) for part, shape in zip(state.split(sizes, dim=1), shapes, strict=True)))


@dataclass(frozen=True)
class Known:
    """Parts of the result that are known, held along the path: clean, or at their noised value.

    Clean is exact, and for networks that know image and mask at times of their own (UniDiffuser, section 3). Otherwise
    the network knows only the joint distribution at one time for all parts, so the rest sees the known parts through as
    much noise as its own, which is approximate (the "replacement" method; Ho et al. 2022, section 3.1).

    Attributes:
        clean: (B, N) float32, known latents, flattened side by side as the state is.
        noise: (B, N), of the same pairs.
        is_known: (N,) bool.
        diffusion: the noise process.
        held_clean: which modality is held clean, with its CLIP embedding where that is the image; empty for none.
    """

    clean: Tensor
    noise: Tensor
    is_known: Tensor
    diffusion: Diffusion
    held_clean: Literal["", "image", "mask"] = ""

    def own_times(self, times: Tensor) -> list[Tensor]:
        """Times (B,) of image and mask, or the one of both, where the rest is at `times`."""
        clean = torch.zeros_like(times)
        return {"": [times], "image": [clean, times], "mask": [times, clean]}[self.held_clean]

    def along(self, times: Tensor) -> Held:
        """With the weights of signal and noise at every step's time (steps,), worked out beforehand."""
        if self.held_clean:
            return Held(self, torch.ones_like(times), torch.zeros_like(times))
        return Held(self, *self.diffusion.signal_and_noise(times))


@dataclass(frozen=True)
class Held:
    """Known parts and the weights (steps,) of signal and noise."""

    known: Known
    signal: Tensor
    noise: Tensor

    def at(self, step: int, state: Tensor) -> Tensor:
        """`state` (B, N) with the known parts as they are at a step."""
        held = self.signal[step] * self.known.clean + self.noise[step] * self.known.noise
        return torch.where(self.known.is_known, held, state)
