"""Side by side: trainings that run at once, each with workers of its own, and stop together."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from pipeline.base.errors import Stopped
from pipeline.base.log import log
from pipeline.training import notice

R = TypeVar("R")

LOOKS_S = 0.2
"""Between looks whether a training has ended."""
ASKS_S = 2.0
"""Between words to those that are to stop: one that is just starting takes back what it was told before."""


def side_by_side(trainings: Mapping[str, Callable[[], R]], at_once: int = 1) -> dict[str, R]:
    """Calls a function for each training, so many at once, in threads of their own, where Ray leaves signals alone.

    SIGINT and SIGTERM ask all that run to stop after a checkpoint, and no more begin; so does the first that fails. A
    second signal ends them at once.

    Args:
        trainings: folder of each run -> what trains it.
        at_once: how many run at a time.

    Returns:
        Folder -> what its function returned.

    Raises:
        Stopped: the user stopped before all were begun.
        Exception: what the first one that failed raised.
    """
    results: dict[str, R] = {}
    errors: list[BaseException] = []
    threads: dict[str, threading.Thread] = {}
    waiting = list(trainings)
    ask_at = 0.0

    def call(folder: str) -> None:
        try:
            results[folder] = trainings[folder]()
        except BaseException as error:
            errors.append(error)

    with _signals() as asked:
        while True:
            running = [folder for folder, thread in threads.items() if thread.is_alive()]
            stopping = bool(asked or errors)
            while waiting and not stopping and len(running) < at_once:
                running.append(folder := waiting.pop(0))
                threads[folder] = threading.Thread(target=call, args=(folder,), daemon=True)
                threads[folder].start()
            if not running:
                break
            if stopping and time.monotonic() >= ask_at:
                ask_at = time.monotonic() + ASKS_S
                for folder in running:
                    notice.ask_to_stop(folder)
            threads[running[0]].join(LOOKS_S)
    if errors:
        raise errors[0]
    if waiting:
        raise Stopped(f"stopped: {len(results)} of {len(trainings)} trainings are finished")
    return results


@contextlib.contextmanager
def _signals() -> Iterator[list[bool]]:
    """A list that SIGINT and SIGTERM put something into; the second one ends the process's work at once. Threads other
    than the main one hear no signals."""
    asked: list[bool] = []

    def ask(*_: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        log.info("stopping after a checkpoint of this step; once more to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
