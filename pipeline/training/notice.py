"""How a training is told to stop: a file in its run, a signal to a worker, or the word of the cluster.

Each leads to a checkpoint first. Whoever wants all of it to stop makes the file `<run>/stop`; the driver does so at
Ctrl-C and SIGTERM. A worker that gets SIGTERM, or whose machine is to be drained, leaves alone: the others go on.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from enum import IntEnum

import ray.train
from ray.train.v2._internal.execution.callback import WorkerCallback

from pipeline.base.errors import DataError
from pipeline.base.log import log, set_up_logging
from pipeline.storage.files import filesystem_of, is_file
from pipeline.storage.publish import write_bytes

_leaving = threading.Event()


class Notice(IntEnum):
    """What workers have been told; of several, the greatest counts."""

    NONE = 0
    DRAIN = 1
    """A machine will be taken away some time soon: save, and train on until it is."""
    LEAVE = 2
    """A worker's process is being ended now: save, and begin again without it."""
    STOP = 3
    """The user wants the training to stop: save, and end."""


class Listening(WorkerCallback):
    """Makes a worker hear SIGTERM. Training runs in another thread than the one that signals reach, so Ray calls this
    in that one."""

    def after_init_train_context(self) -> None:
        _leaving.clear()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: _leaving.set())


class Telling(ray.train.UserCallback):
    """Says in one line why a training begins again."""

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        set_up_logging()
        for rank, error in sorted(worker_exceptions.items())[:1]:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            log.warning("worker %d was lost (%s); all begin again from the last checkpoint", rank, lines[-1][:200])


def heard(run: str, *, looks: bool) -> Notice:
    """What this worker has been told so far; with `looks`, by the file too. One worker need look."""
    if looks:
        with contextlib.suppress(DataError):  # a store that does not answer now will be asked again
            if is_file(_stop_file(run)):
                return Notice.STOP
    return Notice.LEAVE if _leaving.is_set() else Notice.NONE


def drained() -> Notice:
    """Whether the cluster is about to take a worker's machine away. All workers must ask equally often."""
    return Notice.DRAIN if ray.train.get_preemption_info() else Notice.NONE


def ask_to_stop(run: str) -> None:
    """Tells a training to save and end."""
    write_bytes(_stop_file(run), b"")


def forget(run: str) -> None:
    """Takes `ask_to_stop` back, before a training starts."""
    filesystem, path = filesystem_of(_stop_file(run))
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def _stop_file(run: str) -> str:
    return f"{run}/stop"
