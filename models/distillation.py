"""What a student of few steps learns: to arrive in one step where its teacher arrives in several.

Legend: B rows, K steps of the student.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.diffusion import Diffusion
from models.reverse import exact_times


def student_diffusion(teacher: Diffusion) -> Diffusion:
    """The noise process of a student: its teacher's. Where the teacher predicts noise, the student predicts v: the
    first of few steps begins in nearly pure noise, and knowing the noise there says next to nothing of the clean value
    (Progressive Distillation, section 4)."""
    return replace(teacher, objective="v") if teacher.objective == "epsilon" else teacher


@dataclass(frozen=True)
class Way:
    """The steps of a student, as DDIM takes them.

    Attributes:
        diffusion: the noise process.
        times: (K,) float32, at which the network is asked.
        signal, noise: (K + 1,) weights of clean value and noise at these times, and behind the last step: 1 and 0.
    """

    diffusion: Diffusion
    times: Tensor
    signal: Tensor
    noise: Tensor

    @classmethod
    def of(cls, diffusion: Diffusion, steps: int) -> Way:
        """The way of so many steps."""
        scheduler = diffusion.scheduler("ddim")
        scheduler.set_timesteps(steps)
        times = exact_times(scheduler)
        signal, noise = diffusion.signal_and_noise(times)
        return cls(diffusion, times, torch.cat([signal, signal.new_ones(1)]), torch.cat([noise, noise.new_zeros(1)]))

    def target(self, before: Tensor, after: Tensor, step: int) -> Tensor:
        """What the student should predict of values (B, ...) so that step number `step` takes them from `before` to
        `after` (Progressive Distillation, Eq. 8), float32."""
        before, after = before.float(), after.float()
        signal, noise = float(self.signal[step]), float(self.noise[step])
        next_signal, next_noise = float(self.signal[step + 1]), float(self.noise[step + 1])
        kept = next_noise / noise
        clean = (after - kept * before) / (next_signal - kept * signal)
        times = torch.full((len(before),), float(self.times[step]), device=before.device)
        return self.diffusion.target(clean, (before - signal * clean) / noise, times)
