"""A job on this machine alone, without Ray and MLflow: `python -m benchmarks.alone JOB ...`, else as `jobs.JOB`.

For trials on a machine that has torch and transformers, but neither of both. What is written is what the job writes, by
the same code (tested): stages run one after the other with their blocks in memory, trainings in a process each,
`at_once` side by side, with one worker. Nothing that dies is tried again and nothing goes to MLflow. Ctrl-C lets
trainings end with a checkpoint; of other jobs nothing is kept.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pickle
import sys
import traceback
import typing
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import alone_ray


class Untold:
    """A tracker, or a watch over a graph, that does nothing."""

    stopped = False

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return nothing


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

    vars(drive).update(Watch=Untold)
    vars(run).update(open_tracker=Untold, LateTracker=Untold)
    vars(fit).update(_run_workers=train)
    vars(worker).update(system_metrics=lambda *_: contextlib.nullcontext())


def train(assignment: Any) -> Any:
    """Trains in a process of its own; in place of `fit._run_workers`."""
    mine, other = alone_ray.CONTEXT.Pipe()
    process = alone_ray.CONTEXT.Process(target=work_alone, args=(pickle.dumps(assignment), other))
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

    assignment = pickle.loads(content)  # of our own
    if assignment.config.workers.gpus:
        os.environ[alone_ray.ON_GPU] = "1"
    try:
        told.send((work({"assignment": assignment}), ""))
    except BaseException:
        told.send((None, traceback.format_exc()))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    prepare()
    from jobs import ending
    from pipeline.base.command_line import parse
    from pipeline.base.log import set_up_logging

    name = sys.argv.pop(1)
    if not name.isidentifier() or importlib.util.find_spec(f"jobs.{name}") is None:
        sys.exit(f"error: there is no job {name}; python -m jobs lists them")
    job = importlib.import_module(f"jobs.{name}")
    kind = typing.get_type_hints(getattr(job, "main", None) or nothing).get("config")
    if kind is None:
        sys.exit(f"error: the job {name} takes no config, so that it cannot be run so; use python -m jobs.{name}")
    set_up_logging()
    with ending():
        config = parse(kind, program=f"python -m benchmarks.alone {name}")
        config.check_inputs()
        job.main(config)


if __name__ == "__main__":
    main()
