"""Progress: what the parts of a running graph tell each other and the person who waits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.tables.schema import Batch


@dataclass
class StageTime:
    """What one stage did so far: rows, seconds of all its processes, bytes that left it; `began` is when its first
    batch did, in seconds since 1970."""

    began: float = 0.0
    rows: int = 0
    busy_s: float = 0.0
    num_bytes: int = 0


@dataclass
class Progress:
    """One place that outlives the processes of a graph; in a run it is a Ray actor (`shared`)."""

    stages: dict[str, StageTime] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    stopping: bool = False
    _begun: Counter[str] = field(default_factory=Counter)
    _given_up: set[str] = field(default_factory=set)

    def begin(self, key: str, prompt_ids: Sequence[str]) -> tuple[int, frozenset[str]]:
        """As `pipeline.stages.guard.Attempts`."""
        given_up = frozenset(self._given_up.intersection(prompt_ids))
        if self.stopping:
            return -1, given_up
        self._begun[key] += 1
        return self._begun[key] - 1, given_up

    def give_up(self, prompt_id: str) -> None:
        """As `pipeline.stages.guard.Attempts`."""
        self._given_up.add(prompt_id)

    def end(self, key: str) -> None:
        """As `pipeline.stages.guard.Attempts`."""
        self._begun.pop(key, None)

    def worked(self, stage: str, rows: int, busy_s: float, num_bytes: int, errors: dict[str, int]) -> None:
        """Adds what a stage did with one batch."""
        found = self.stages.setdefault(stage, StageTime(began=time.time() - busy_s))
        found.rows += rows
        found.busy_s += busy_s
        found.num_bytes += num_bytes
        self.errors.update(errors)

    def stop(self) -> None:
        """From now on `begin` asks everybody to leave what they have not begun."""
        self.stopping = True

    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self.stopping

    def snapshot(self) -> tuple[dict[str, StageTime], Counter[str]]:
        """Times by stage, and errors by reason."""
        return self.stages, self.errors


@dataclass(frozen=True)
class Shared:
    """A `Progress` that all processes of a graph share; travels to workers as a handle."""

    actor: Any

    @classmethod
    def start(cls) -> Shared:
        """Starts it beside the driver, so that it goes with no other machine."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(ray.remote(Progress).options(num_cpus=0, scheduling_strategy=here).remote())

    def begin(self, key: str, prompt_ids: Sequence[str]) -> tuple[int, frozenset[str]]:
        """Waits for the answer, a millisecond."""
        return ray.get(self.actor.begin.remote(key, prompt_ids))

    def give_up(self, prompt_id: str) -> None:
        """Does not wait."""
        self.actor.give_up.remote(prompt_id)

    def end(self, key: str) -> None:
        """Does not wait."""
        self.actor.end.remote(key)

    def worked(
        self, stage: str, rows: int, busy_s: float, num_bytes: int, errors: dict[str, int] | None = None
    ) -> None:
        """Does not wait."""
        self.actor.worked.remote(stage, rows, busy_s, num_bytes, errors or {})

    def stop(self) -> None:
        """Does not wait."""
        self.actor.stop.remote()

    def stopping(self) -> bool:
        """Waits for the answer, a millisecond."""
        return bool(ray.get(self.actor.is_stopping.remote()))

    def snapshot(self) -> tuple[dict[str, StageTime], Counter[str]]:
        """Waits for the answer."""
        return ray.get(self.actor.snapshot.remote())


class Timed:
    """Stage: `stage`, telling `shared` how long it took and what came out; with `new_errors`, the errors too. One that
    is `stoppable` gives no rows once all work is to stop."""

    def __init__(
        self,
        name: str,
        stage: Callable[[Batch], Batch],
        shared: Shared,
        new_errors: bool = False,
        stoppable: bool = False,
    ) -> None:
        self.name, self.stage, self.shared, self.new_errors = name, stage, shared, new_errors
        self.stoppable = stoppable

    def __call__(self, batch: Batch) -> Batch:
        if self.stoppable and self.shared.stopping():
            batch = {name: values[:0] for name, values in batch.items()}
        began = time.perf_counter()
        made = self.stage(batch)
        seconds = time.perf_counter() - began
        rows = len(next(iter(made.values()))) if made else 0
        errors = Counter(str(error) for error in made.get("error", ()) if error) if self.new_errors else Counter()
        self.shared.worked(self.name, rows, seconds, _num_bytes(made), dict(errors))
        return made


def _num_bytes(batch: Batch) -> int:
    """Bytes of arrays, and of the encoded pictures in columns of objects."""
    total = 0
    for values in batch.values():
        total += values.nbytes
        if values.dtype == object and len(values) and isinstance(values[0], bytes):
            total += sum(len(value) for value in values)
    return total
