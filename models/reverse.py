"""The reverse process: noise to clean latents, guided by text.

Legend: B pairs, T text tokens, E text width, N numbers of all latents of a pair side by side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from models.diffusion import NUM_TIMES, Denoiser, Diffusion, Solver
from models.jodiffusion import Joint
from models.precision import Precision
from models.step_cache import Recorder, Schedule, StepCache
from models.uvit import without_autocast

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


LATER = ("step_cache",)
"""Settings that came after pairs had been named by the others."""


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
        compile: of the network's layers, as code for their shapes (`models.compiled`): some seconds at the start.
        batch_size: the one shape at which the nets run; short batches are padded to it.
        step_cache: "on" reuses outputs of earlier steps as the bundle's schedule says (`jobs.calibrate`), "off"
            computes all; where settings are resolved, "on" is the digest of the schedule.
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
    step_cache: str = "off"

    def __post_init__(self) -> None:
        for value, known in ((self.solver, get_args(Solver)), (self.precision, get_args(Precision))):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(known)}")
        if self.step_cache not in ("on", "off") and not re.fullmatch("[0-9a-f]{16}", self.step_cache):
            raise ValueError(f"step_cache is on, off or the digest of a schedule, got {self.step_cache!r}")
        if not 0 < self.steps < NUM_TIMES or self.batch_size < 1:
            raise ValueError(
                f"steps lie between 1 and {NUM_TIMES - 1}, and batch_size is at least 1, got {self.steps} and "
                f"{self.batch_size}"
            )
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise ValueError(f"guidance is a finite number, got {self.guidance}")
        if not 0 <= self.confidence_threshold <= 1:
            raise ValueError(f"confidence_threshold is a probability, 0 to 1, got {self.confidence_threshold}")
        if not 0 <= self.guided_from <= self.guided_to <= 1:
            raise ValueError(
                "guided_from and guided_to are shares of the steps with 0 <= guided_from <= guided_to <= 1, got "
                f"{self.guided_from} and {self.guided_to}"
            )

    def resolved(
        self, guidance: float, student: Student | None = None, schedule: Schedule | None = None
    ) -> SamplerSettings:
        """These settings, with a bundle's guidance where they name none, and its schedule of the cache where they ask
        for it; for a student, with what it was taught.

        Raises:
            ValueError: a student is asked for what it was not taught, or the schedule is for another way.
        """
        if student:
            return student.settings(self)
        settings = replace(self, guidance=guidance) if self.guidance is None else self
        if settings.step_cache == "off":
            return settings
        return replace(settings, step_cache=settings._fitting(schedule).digest)

    def _fitting(self, schedule: Schedule | None) -> Schedule:
        if schedule is None:
            raise ValueError(
                "sampler.step_cache: the bundle has no schedule of what is reused; make it with jobs.calibrate, or "
                "leave the cache off"
            )
        if self.step_cache not in ("on", schedule.digest):
            raise ValueError(
                f"sampler.step_cache: asked for schedule {self.step_cache}, and the bundle has {schedule.digest}; take "
                "the bundle as it was"
            )
        keys = ("steps", "solver", "guided_from", "guided_to")
        if other := [key for key in keys if getattr(self, key) != getattr(schedule, key)]:
            told = ", ".join(f"{key} {getattr(schedule, key)}, not {getattr(self, key)}" for key in other)
            raise ValueError(
                f"sampler.step_cache: the bundle's schedule is for {told}; sample so, make another with "
                "jobs.calibrate, or leave the cache off"
            )
        return schedule

    def recorded(self) -> dict[str, Any]:
        """What pairs are named by: as releases did that did not know the latest keys, where these are at rest."""
        default = SamplerSettings()
        return {key: value for key, value in asdict(self).items() if key not in LATER or value != getattr(default, key)}

    def guided(self, step: int) -> bool:
        """Whether step number `step`, from 0, is guided."""
        assert self.guidance is not None, "settings are resolved before they are used"
        return self.guidance > 1 and round(self.guided_from * self.steps) <= step < round(self.guided_to * self.steps)


@dataclass(frozen=True)
class Student:
    """How a network is sampled that was taught to take few steps, with guidance built in (`jobs.distill`).

    Attributes:
        steps: network evaluations of a pair; each stands for a step of DDIM.
        guidance: scale that is built in: there is no branch without text.
        teacher: digest of the bundle that taught it.
    """

    steps: int
    guidance: float
    teacher: str

    def settings(self, asked: SamplerSettings | None = None) -> SamplerSettings:
        """The settings that were asked for, with the student's own way, which takes the place of defaults.

        Raises:
            ValueError: they name another way.
        """
        asked, default = asked or SamplerSettings(), SamplerSettings()
        taught: dict[str, Any] = {"steps": self.steps, "solver": "ddim", "guidance": 1.0}
        taught |= {key: getattr(default, key) for key in ("guided_from", "guided_to", "step_cache")}
        other = [key for key, value in taught.items() if getattr(asked, key) not in (getattr(default, key), value)]
        if other:
            raise ValueError(
                f"the bundle was distilled to {self.steps} evaluations with guidance {self.guidance:g} built in, and "
                f"can be sampled in no other way: leave out {', '.join(f'sampler.{key}' for key in other)}"
            )
        return replace(asked, **taught)


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
    part: range | None = None,
    cache: StepCache | Recorder | None = None,
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
        part: the steps that are taken, one after the other, all by default; `start` is the state before the first. A
            solver of higher order begins each part anew, with a step of order 1.
        cache: reuses the outputs of earlier steps, or looks at them.

    Returns:
        The latents behind the last step, at time 0 behind the last of all; float32.
    """
    scale, part = settings.guidance or 1.0, part or range(settings.steps)
    scheduler.set_timesteps(settings.steps, device=text.device)
    scheduler.set_begin_index(part.start)  # else the scheduler looks its place up on the device, and the host waits
    num_pairs = len(text)
    shapes = [value.shape for value in start]
    sizes = [value[0].numel() for value in start]
    state = torch.cat([value.float().flatten(1) for value in start], dim=1)
    no_time = torch.zeros(num_pairs, device=text.device)
    times = exact_times(scheduler).to(text.device)
    held = known.along(times) if known else None
    for step in part:
        time, exact = scheduler.timesteps[step], times[step]
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
        ways = {"run": cache.at(step)} if cache else {}
        prediction, _ = denoise(noisy, texts, image_time, text_times, *mask_time, **ways)
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


def exact_times(scheduler: SchedulerMixin) -> Tensor:
    """(steps,) float32 times at which the network is asked. The scheduler cuts them to whole numbers, which flow was
    not trained on."""
    return NUM_TIMES * scheduler.sigmas[:-1] if scheduler.config.use_flow_sigmas else scheduler.timesteps.float()


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
