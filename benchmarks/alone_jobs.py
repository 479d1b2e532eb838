"""What a job is given in place of Ray and MLflow by `benchmarks.alone`, and the process of a training. Apart from the
command, since every process loads it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import alone_ray


class Untold:
    """A tracker that does nothing."""

    stopped = False

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return nothing


class Timed(Untold):
    """A watch over a graph that tells how long it took, but nothing of its stages."""

    def __init__(self, *, planned: int, already: int, workers: dict[str, int], **_: object) -> None:
        self.rows, self.samplers, self.began = planned - already, next(iter(workers.values())), time.perf_counter()

    def throughput(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.began
        return {
            "pairs_per_s": self.rows / seconds, "seconds": seconds, "steady_s": seconds, "samplers": self.samplers,
            "stages": {},
        }  # fmt: skip


def nothing(*_: object, **__: object) -> None:
    """Does nothing."""


def prepare() -> None:
    """Puts stand-ins where the project meets Ray and MLflow; before its modules are loaded."""
    alone_ray.install()
    import pipeline.cluster.connection as connection

    # First, since others take these by name.
    vars(connection).update(require=nothing, cluster=contextlib.nullcontext)
    import pipeline.cluster.drive as drive
    import pipeline.runs.run as run
    import pipeline.training.fit as fit
    import pipeline.training.worker as worker

    vars(drive).update(Watch=Timed)
    vars(run).update(open_tracker=Untold, LateTracker=Untold)
    vars(fit).update(_run_workers=train)
    vars(worker).update(system_metrics=lambda *_: contextlib.nullcontext())


def train(assignment: Any) -> Any:
    """Trains until it ends or is told to stop; in place of `fit._run_workers`."""
    from pipeline.training.side_by_side import side_by_side

    folder = str(assignment.run.folder)
    return side_by_side({folder: lambda: train_apart(assignment)})[folder]


def train_apart(assignment: Any) -> Any:
    """Trains in a process of its own."""
    mine, other = alone_ray.CONTEXT.Pipe()
    process = alone_ray.CONTEXT.Process(target=work_alone, args=(pickle.dumps(assignment), other), daemon=True)
    process.start()
    other.close()
    try:
        outcome, trace = mine.recv()
    except EOFError:
        outcome, trace = None, "its process died"
    process.join()
    if outcome is None:
        sys.exit(f"{assignment.config.run}: {trace}")
    return outcome


def work_alone(content: bytes, told: Connection) -> None:
    """The process of a training."""
    from pipeline.training.worker import work

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all its processes; the driver asks for a checkpoint
    assignment = pickle.loads(content)  # of our own
    if assignment.config.workers.gpus:
        os.environ[alone_ray.ON_GPU] = "1"
    try:
        told.send((work({"assignment": assignment}), ""))
    except BaseException:
        told.send((None, traceback.format_exc()))
