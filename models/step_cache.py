"""A static cache over the steps of the reverse process: outputs of attention and feed-forward layers that hardly change
from one step to the next are taken from the step before (SmoothCache, 2411.10510; Learning-to-Cache, 2406.01733).

Which ones follows from the step alone and never from what is sampled, so that a pair does not depend on its batch.
Long-skip linears, norms, embeddings and output layers are always computed.

Legend: S steps, M layers (attention and feed-forward of every block, in the order in which they run), B rows, N tokens,
D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from models.jodiffusion import JoDiffusionConfig
from models.uvit import UViT

SCHEDULE = "step_cache.json"
"""The file in a bundle."""
COMPUTED, REUSED = ".", "r"
MAX_GAP = 3
"""Steps that an output may be old."""
Run = Callable[[nn.Module, Tensor], Tensor]
"""Gives the output of a layer for its input."""


@dataclass(frozen=True)
class Schedule:
    """What is reused when, for one way through the reverse process.

    Attributes:
        steps, solver, guided_from, guided_to: the settings of the sampler that it is for.
        guidance: scale that it was calibrated with; others may be taken.
        reuse: (S,) texts of M signs: `.` computes a layer, `r` takes its output of the step before.
    """

    steps: int
    solver: str
    guided_from: float
    guided_to: float
    guidance: float
    reuse: tuple[str, ...]

    def __post_init__(self) -> None:
        lengths = {len(row) for row in self.reuse}
        if len(self.reuse) != self.steps or len(lengths) != 1 or set("".join(self.reuse)) - {COMPUTED, REUSED}:
            raise ValueError(f"{SCHEDULE} holds no row of {COMPUTED} and {REUSED} for each of its {self.steps} steps")
        if REUSED in self.reuse[0]:
            raise ValueError(f"{SCHEDULE} reuses in its first step, before which there is none")
        if 0 < self.first_guided < self.steps and REUSED in self.reuse[self.first_guided]:
            raise ValueError(
                f"{SCHEDULE} reuses in step {self.first_guided}, the first with guidance, before which there is no "
                "branch without text"
            )

    @property
    def first_guided(self) -> int:
        """The step that guidance begins with."""
        return round(self.guided_from * self.steps)

    @property
    def digest(self) -> str:
        """16 hex digits over the schedule; they are part of what a pair is made with."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=8).hexdigest()

    @property
    def share_reused(self) -> float:
        """Share of layers that are not computed, over all steps."""
        return sum(row.count(REUSED) for row in self.reuse) / sum(map(len, self.reuse))

    def kept_layers(self) -> int:
        """Layers whose outputs are held at the same time, at most."""
        most = now = 0
        for step in range(self.steps):
            for layer, sign in enumerate(self.reuse[step]):
                now += self.is_kept(step, layer) - (sign == REUSED)
                most = max(most, now)
        return most

    def is_kept(self, step: int, layer: int) -> bool:
        """Whether the step after this one needs a layer's output of now."""
        return step + 1 < self.steps and self.reuse[step + 1][layer] == REUSED

    def bytes_per_row(self, net: JoDiffusionConfig, bytes_per_number: int = 2) -> int:
        """Memory that the cache takes for a row of the network, at most; a guided step has two rows a pair."""
        return self.kept_layers() * tokens_of(net) * net.width * bytes_per_number

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps(asdict(self), indent=1)


class ScheduleError(Exception):
    """A file of a schedule that is damaged."""


def read_schedule(folder: str | Path) -> Schedule | None:
    """The schedule of a bundle, where it has one.

    Raises:
        ScheduleError: it is damaged.
    """
    path = Path(folder) / SCHEDULE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        return Schedule(**{**values, "reuse": tuple(values["reuse"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ScheduleError(f"{path}: damaged ({error!r}); remove it and make it anew with jobs.calibrate") from error


def tokens_of(net: JoDiffusionConfig) -> int:
    """N."""
    return net.num_times + 1 + net.num_text_tokens + 1 + 2 * net.num_patches


def layers_of(transformer: UViT) -> list[nn.Module]:
    """Attention and feed-forward of every block, in the order in which they run."""
    blocks = [*transformer.transformer_in_blocks, transformer.transformer_mid_block]
    blocks += [out.block for out in transformer.transformer_out_blocks]
    return [layer for block in blocks for layer in (block.attn1, block.ff)]


class StepCache:
    """The outputs that one reverse process keeps.

    Args:
        schedule: what is reused when.
        transformer: whose layers.

    Raises:
        ValueError: the schedule is of another network.
    """

    def __init__(self, schedule: Schedule, transformer: UViT) -> None:
        self.schedule = schedule
        self._numbers = {layer: number for number, layer in enumerate(layers_of(transformer))}
        if len(self._numbers) != len(schedule.reuse[0]):
            raise ValueError(
                f"{SCHEDULE} is of {len(schedule.reuse[0])} layers, and the network has {len(self._numbers)}; make it "
                "anew with jobs.calibrate"
            )
        self._kept: dict[int, Tensor] = {}

    def at(self, step: int) -> Run:
        """How layers are run in a step; steps come in order. Where guidance has ended the rows are those with text."""

        def run(layer: nn.Module, x: Tensor) -> Tensor:
            number = self._numbers[layer]
            reuses = self.schedule.reuse[step][number] == REUSED
            output = self._kept.pop(number)[: len(x)] if reuses else layer(x)
            if self.schedule.is_kept(step, number):
                self._kept[number] = output
            return output

        return run


class Recorder:
    """Measures how far each layer's output is from the last one that would be kept, in a process that computes all.

    Attributes:
        changes: (gap, step, layer) -> relative changes, one for each pair: the norm of the difference to the output
            `gap` steps before, over the norm of the output, root mean square over the pair's rows (SmoothCache, Eq. 5).
    """

    def __init__(self, transformer: UViT) -> None:
        self._numbers = {layer: number for number, layer in enumerate(layers_of(transformer))}
        self._before: dict[int, list[Tensor]] = {}
        self._batch_size = self._num_pairs = 1
        self.changes: dict[tuple[int, int, int], list[float]] = {}

    def counting(self, num_pairs: int, batch_size: int) -> Recorder:
        """This one, for a process whose rows are `batch_size` pairs, with text and in guided steps without it behind
        them; behind the first `num_pairs` the batch is filled up, and these do not count."""
        self._num_pairs, self._batch_size = num_pairs, batch_size
        return self

    def at(self, step: int) -> Run:
        """How layers are run in a step."""
        if not step:
            self._before.clear()

        def run(layer: nn.Module, x: Tensor) -> Tensor:
            number, output = self._numbers[layer], layer(x)
            before = self._before.setdefault(number, [])
            for gap, earlier in enumerate(before[::-1], start=1):
                both = min(len(earlier), len(output))
                apart = (output[:both].float() - earlier[:both].float()).flatten(1).norm(dim=1)
                squared = (apart / output[:both].float().flatten(1).norm(dim=1)).square()
                change = squared.unflatten(0, (-1, self._batch_size))[:, : self._num_pairs].mean(0).sqrt()
                self.changes.setdefault((gap, step, number), []).extend(change.tolist())
            self._before[number] = [*before, output][-MAX_GAP:]
            return output

        return run


def chosen(
    changes: dict[tuple[int, int, int], float], costs: list[list[float]], first_guided: int, share: float
) -> tuple[str, ...]:
    """The rows of the schedule with the lowest limit on changes that leaves at most `share` of the work.

    Args:
        changes: (gap, step, layer) -> relative change, as `Recorder` measures it.
        costs: (S, M) work of a layer in a step, in any unit.
        first_guided: a step that computes all.
        share: of the work, that is computed.
    """
    total = sum(map(sum, costs))
    for limit in sorted({0.0, *changes.values()}):
        rows = _below(changes, costs, first_guided, limit)
        signs = zip("".join(rows), (cost for line in costs for cost in line), strict=True)
        if sum(cost for sign, cost in signs if sign == COMPUTED) <= share * total:
            break
    return rows


def _below(
    changes: dict[tuple[int, int, int], float], costs: list[list[float]], first_guided: int, limit: float
) -> tuple[str, ...]:
    computed = [0] * len(costs[0])  # the step at which each layer was computed last
    rows = []
    for step in range(len(costs)):
        row = ""
        for layer, last in enumerate(computed):
            change = changes.get((step - last, step, layer))
            reuses = step not in (0, first_guided) and change is not None and change <= limit and limit > 0
            row += REUSED if reuses else COMPUTED
            computed[layer] = last if reuses else step
        rows.append(row)
    return tuple(rows)


def layer_costs(net: JoDiffusionConfig) -> list[float]:
    """(M,) multiplications of each layer for a row."""
    attention = tokens_of(net) * (4 * net.width**2 + 2 * tokens_of(net) * net.width)
    return [float(attention), float(tokens_of(net) * 8 * net.width**2)] * (net.num_layers + 1)
