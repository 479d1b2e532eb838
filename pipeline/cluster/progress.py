"""Progress: what the parts of a running graph tell each other and the person who waits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


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
    """One place that outlives the processes of a graph; in a run it is a Ray actor (`Shared`)."""

    stages: dict[str, StageTime] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    stopping: bool = False
    _begun: Counter[str] = field(default_factory=Counter)
    _given_up: set[str] = field(default_factory=set)
    _in_vain: Counter[str] = field(default_factory=Counter)

    def started(self, stage: str) -> int:
        """Notes that a process of a stage starts; returns how many did since the stage last finished a batch."""
        self._in_vain[stage] += 1
        return self._in_vain[stage]

    def begin(self, key: str, causes: Sequence[str]) -> tuple[int, frozenset[str]]:
        """As `pipeline.cluster.guard.Attempts`."""
        given_up = frozenset(self._given_up.intersection(causes))
        if self.stopping:
            return -1, given_up
        self._begun[key] += 1
        return self._begun[key] - 1, given_up

    def give_up(self, cause: str) -> None:
        """As `pipeline.cluster.guard.Attempts`."""
        self._given_up.add(cause)

    def end(self, key: str) -> None:
        """As `pipeline.cluster.guard.Attempts`."""
        self._begun.pop(key, None)

    def worked(self, stage: str, rows: int, busy_s: float, num_bytes: int, errors: dict[str, int]) -> None:
        """Adds what a stage did with one batch."""
        found = self.stages.setdefault(stage, StageTime(began=time.time() - busy_s))
        found.rows += rows
        found.busy_s += busy_s
        found.num_bytes += num_bytes
        self.errors.update(errors)
        self._in_vain.pop(stage, None)

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
    """A `Progress` that all processes of a graph share; travels to workers as a handle.

    Where its process dies (a machine out of memory ends what is newest, whatever it is), it starts anew and knows
    nothing of before; where it does not answer at all, work goes on without: that costs numbers, never a run.
    """

    actor: Any

    @classmethod
    def start(cls) -> Shared:
        """Starts it beside the driver, so that it goes with no other machine."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 1, "scheduling_strategy": here}
        return cls(ray.remote(Progress).options(**options).remote())

    def started(self, stage: str) -> int:
        """Waits for the answer, a millisecond."""
        return self._ask(self.actor.started, 1, stage)

    def begin(self, key: str, causes: Sequence[str]) -> tuple[int, frozenset[str]]:
        """Waits for the answer, a millisecond."""
        return self._ask(self.actor.begin, (0, frozenset()), key, causes)

    def give_up(self, cause: str) -> None:
        """Does not wait."""
        self._tell(self.actor.give_up, cause)

    def end(self, key: str) -> None:
        """Does not wait."""
        self._tell(self.actor.end, key)

    def worked(
        self, stage: str, rows: int, busy_s: float, num_bytes: int, errors: dict[str, int] | None = None
    ) -> None:
        """Does not wait."""
        self._tell(self.actor.worked, stage, rows, busy_s, num_bytes, errors or {})

    def stop(self) -> None:
        """Does not wait."""
        self._tell(self.actor.stop)

    def stopping(self) -> bool:
        """Waits for the answer, a millisecond."""
        return bool(self._ask(self.actor.is_stopping, False))

    def snapshot(self) -> tuple[dict[str, StageTime], Counter[str]]:
        """Waits for the answer."""
        return self._ask(self.actor.snapshot, ({}, Counter()))

    @staticmethod
    def _ask(method: Any, otherwise: Any, *arguments: Any) -> Any:
        try:
            return ray.get(method.remote(*arguments))
        except RayError:
            return otherwise

    @staticmethod
    def _tell(method: Any, *arguments: Any) -> None:
        with suppress(RayError):
            method.remote(*arguments)
