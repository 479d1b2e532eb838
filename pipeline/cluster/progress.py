"""Progress: what the parts of a running graph tell each other and the person who waits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
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
    """One place that outlives the processes of a graph; in a run it is in a Ray actor (`Shared`)."""

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


class Progresses:
    """Those of all graphs of a driver, in one process: to start another takes a second or two."""

    def __init__(self) -> None:
        self._graphs: dict[int, Progress] = {}

    def call(self, graph: int, method: str, *arguments: Any) -> Any:
        """Calls a method of the Progress of a graph."""
        return getattr(self._graphs.setdefault(graph, Progress()), method)(*arguments)


_STARTED: dict[tuple[str, str], Any] = {}
"""The actor of a driver, by Ray's names of its machine and of itself: another Ray counts its drivers from 1 again."""
_NUMBERS = count()


@dataclass(frozen=True)
class Shared:
    """A `Progress` that all processes of a graph share; travels to workers as a handle.

    Where its process dies (a machine out of memory ends what is newest, whatever it is), it starts anew and knows
    nothing of before; where it does not answer at all, work goes on without: that costs numbers, never a run.
    """

    actor: Any
    graph: int

    @classmethod
    def start(cls) -> Shared:
        """A new one, in a process beside the driver, so that it goes with no other machine."""
        context = ray.get_runtime_context()
        driver = context.get_node_id(), context.get_job_id()
        shared = cls(_STARTED.get(driver), next(_NUMBERS))
        if shared.actor is None or shared._ask("is_stopping", None) is None:
            here = NodeAffinitySchedulingStrategy(driver[0], soft=False)
            options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 1, "scheduling_strategy": here}
            _STARTED.clear()
            actor = _STARTED[driver] = ray.remote(Progresses).options(**options).remote()
            shared = replace(shared, actor=actor)
        return shared

    def started(self, stage: str) -> int:
        """Waits for the answer, a millisecond."""
        return self._ask("started", 1, stage)

    def begin(self, key: str, causes: Sequence[str]) -> tuple[int, frozenset[str]]:
        """Waits for the answer, a millisecond."""
        return self._ask("begin", (0, frozenset()), key, causes)

    def give_up(self, cause: str) -> None:
        """Does not wait."""
        self._tell("give_up", cause)

    def end(self, key: str) -> None:
        """Does not wait."""
        self._tell("end", key)

    def worked(
        self, stage: str, rows: int, busy_s: float, num_bytes: int, errors: dict[str, int] | None = None
    ) -> None:
        """Does not wait."""
        self._tell("worked", stage, rows, busy_s, num_bytes, errors or {})

    def stop(self) -> None:
        """Does not wait."""
        self._tell("stop")

    def stopping(self) -> bool:
        """Waits for the answer, a millisecond."""
        return bool(self._ask("is_stopping", False))

    def snapshot(self) -> tuple[dict[str, StageTime], Counter[str]]:
        """Waits for the answer."""
        return self._ask("snapshot", ({}, Counter()))

    def _ask(self, method: str, otherwise: Any, *arguments: Any) -> Any:
        try:
            return ray.get(self.actor.call.remote(self.graph, method, *arguments))
        except RayError:
            return otherwise

    def _tell(self, method: str, *arguments: Any) -> None:
        with suppress(RayError):
            self.actor.call.remote(self.graph, method, *arguments)
