"""What a training tells of itself, and what its workers tell each other, about once a second."""

from __future__ import annotations

import resource
import time

import torch

from pipeline.base.log import clock, log
from pipeline.runs import history
from pipeline.runs.run import Run
from pipeline.storage.files import is_local
from pipeline.training.loop import Report
from pipeline.training.notice import Notice, drained, heard
from pipeline.training.optimisation import Optimisation
from pipeline.training.parallel import Group
from pipeline.training.task import Tensors

PULSE_S = 1.0
"""Seconds between meetings of all workers, at which they learn that they are to stop."""

MEETINGS_A_QUESTION = 5
"""How often they ask what takes a moment: one of Ray's processes whether a machine is drained, a store for a file."""


class Meter:
    """Sums up steps, and has all workers meet about once a second at a step that they agree on: they then exchange what
    they were told, and, where it is time, the numbers that are printed and logged. Nothing else waits for the device.
    """

    def __init__(self, recipe: Optimisation, run: Run, group: Group, every_s: float, step: int) -> None:
        self.recipe, self.run, self.group, self.every_s = recipe, run, group, every_s
        self.last_step = step
        self.meeting, self.meetings = step + 1, 0
        self.met = False
        """Whether the workers met at the last step, and so waited for the device."""
        self.is_near = is_local(str(run.folder))
        self.logged = time.monotonic()
        self.last_meeting = step, self.logged
        self.sums: Tensors = {}
        self.waited_s = 0.0

    def __call__(self, report: Report) -> Notice:
        """Counts a step; returns what workers have been told, if they met at this step."""
        norm = torch.stack([report.gradient_norm.detach().float(), torch.ones_like(report.gradient_norm)])
        for name, value in {**report.losses, "gradient_norm": norm}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.waited_s += report.waited_s
        ends = report.step == self.recipe.num_steps
        self.met = report.step >= self.meeting or ends
        if not self.met:
            return Notice.NONE
        now = time.monotonic()
        leads = self.group.leads
        self.meetings += 1
        asks_far = self.meetings % MEETINGS_A_QUESTION == 0
        pace = (now - self.last_meeting[1]) / (report.step - self.last_meeting[0])
        self.last_meeting = report.step, now
        word = [
            float(heard(str(self.run.folder), looks=leads and (self.is_near or asks_far))),
            float(report.step + max(1, round(PULSE_S / pace))) if leads else 0.0,
            float(leads and (now - self.logged >= self.every_s or ends)),
        ]
        notice, meeting, logs = self.group.greatest(torch.tensor(word, dtype=torch.float64)).tolist()
        self.meeting = int(meeting)
        if logs:
            self.log(report, now)
        return max(Notice(int(notice)), drained() if asks_far else Notice.NONE)

    def log(self, report: Report, now: float) -> None:
        """Prints and logs means of the steps since the last line, with the time that is left."""
        names = sorted(self.sums)
        totals = self.group.total(torch.stack([self.sums[name].float() for name in names]))
        pairs = zip(names, totals.tolist(), strict=True)
        means = {name: total / count for name, (total, count) in pairs if count}
        lately_s, steps = now - self.logged, report.step - self.last_step
        machine = self.group.greatest(torch.tensor([self.waited_s / lately_s, _memory_gib(self.group.device)]))
        self.sums, self.waited_s, self.logged, self.last_step = {}, 0.0, now, report.step
        if not self.group.leads:
            return
        rate = steps * self.recipe.batch_size / lately_s
        left_s = (self.recipe.num_steps - report.step) * self.recipe.batch_size / rate
        shown = {name: value for name, value in means.items() if name != "gradient_norm" and "/" not in name}
        log.info(
            "%s: %3.0f %%  %d of %d examples  %.0f/s  %s left  %s",
            self.run.folder.name,  # several may run side by side
            100 * report.examples / self.recipe.num_examples,
            report.examples,
            self.recipe.num_examples,
            rate,
            clock(left_s),
            "  ".join(f"{name} {value:.4f}" for name, value in shown.items()),
        )
        numbers = {
            **means,
            "learning_rate": report.learning_rate,
            "examples_per_s": rate,
            "data_wait_share": float(machine[0]),
            "memory_gib": float(machine[1]),
            "workers": self.group.world_size,
        }
        self.run.tracker.metrics({f"train/{name}": value for name, value in numbers.items()}, report.examples)
        history.append(self.run.folder, {"examples": report.examples, **numbers})


def _memory_gib(device: torch.device) -> float:
    """The most that this process has held so far, on its GPU or, without one, on the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
