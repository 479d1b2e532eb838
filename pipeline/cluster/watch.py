"""Watch: the one display of a running graph, and the way to stop it."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from pipeline.base.log import clock, log
from pipeline.cluster.progress import Shared, StageTime
from pipeline.runs.run import Run

WINDOW_S = 60.0
"""The rate that is shown is that of the last minute."""


class Rate:
    """Rows a second over the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, rows: int, now: float) -> float:
        """Rows so far, and the time in seconds -> the rate; 0 before anything was made."""
        if self._seen and rows < self._seen[-1][1]:  # what counts was started anew
            self._seen.clear()
        if not self._seen and not rows:
            return 0.0
        self._seen.append((now, rows))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        (then, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - then) if last > then else 0.0


@dataclass
class Watch:
    """Shows where a graph stands while it runs, on the terminal and in MLflow.

    Attributes:
        job: what it is called in messages.
        run: open.
        shared: what the graph's stages report to.
        workers: processes of each stage, in order; the first one's rows count as done.
        already, planned: rows.
        noun: what the rows are called.
        gpus, gpu_hour_price: what a second costs; 0 where it is not known.
        every_s: between lines, where the terminal cannot show a live display.
    """

    job: str
    run: Run
    shared: Shared
    workers: dict[str, int]
    already: int
    planned: int
    noun: str
    gpus: float
    gpu_hour_price: float
    every_s: float
    stopped: bool = False
    _began: float = field(default_factory=time.monotonic)
    _logged_s: float = 0.0
    _rate: Rate = field(default_factory=Rate)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Shows it while the body runs, and where the time went in the end."""
        finished = threading.Event()
        live = sys.stdout.isatty()
        watcher = threading.Thread(target=self._show_live if live else self._show_lines, args=(finished,), daemon=True)
        watcher.start()
        try:
            with self._stoppable():
                yield
        finally:
            finished.set()
            watcher.join()
        text, _ = self._state(ended=True)
        log.info("%s: %s", self.job, text)
        stages, _ = self.shared.snapshot()
        for row in table(stages, self.workers, self.seconds):
            log.info("%s: %s", self.job, row)

    @property
    def seconds(self) -> float:
        """Since the graph began."""
        return time.monotonic() - self._began

    def throughput(self) -> dict[str, Any]:
        """What this start did, for `throughput.json`, the manifest and MLflow."""
        stages, _ = self.shared.snapshot()
        first, num = next(iter(self.workers.items()))
        rows = stages.get(first, StageTime()).rows
        return {
            "pairs_per_s": rows / self.seconds,
            "seconds": self.seconds,
            "steady_s": time.time() - stages[first].began if first in stages else 0.0,
            "samplers": num,
            "stages": {
                name: {"workers": num, "idle_s": max(0.0, num * self.seconds - one.busy_s), **asdict(one)}
                for name, num in self.workers.items()
                for one in (stages.get(name, StageTime()),)
            },
        }

    def _state(self, ended: bool = False) -> tuple[str, float]:
        """The line to show, and the share that is done. The last line tells the rate of the whole start."""
        stages, errors = self.shared.snapshot()
        first, *_, last = self.workers
        made = stages.get(first, StageTime()).rows
        rate = made / self.seconds if ended else self._rate(made, self.seconds)
        cost = self.gpus * self.gpu_hour_price * self.seconds / 3600 if self.gpu_hour_price else None
        done, written = self.already + made, self.already + stages.get(last, StageTime()).rows
        numbers = {"pairs_per_s": rate, "pairs_done": done, "pairs_written": written, "errors": errors.total()}
        for name, num in self.workers.items():
            one = stages.get(name, StageTime())
            numbers[f"busy/{name}"] = one.busy_s / (num * self.seconds)
            numbers[f"idle_s/{name}"] = max(0.0, num * self.seconds - one.busy_s)
            numbers[f"mb/{name}"] = one.num_bytes / 1e6
        if cost is not None:
            numbers["cost"] = cost
        if ended or self.seconds - self._logged_s >= self.every_s:
            self._logged_s = self.seconds
            self.run.tracker.metrics(numbers, step=int(time.time()))  # a run that goes on does not begin at 0 again
        return line(done, self.planned, self.noun, rate, written, errors, cost), done / self.planned

    def _show_lines(self, finished: threading.Event) -> None:
        while not finished.wait(self.every_s):
            log.info("%s: %s", self.job, self._state()[0])

    def _show_live(self, finished: threading.Event) -> None:
        with Live(console=Console(), transient=True, refresh_per_second=2) as live:
            while not finished.wait(2):
                text, share = self._state()
                live.update(Group(ProgressBar(total=1, completed=share, width=60), Text(f"{self.job}: {text}")))

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        def stop() -> None:
            self.stopped = True
            self.shared.stop()

        with stoppable(self.job, stop):
            yield


@contextmanager
def stoppable(job: str, stop: Callable[[], object]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop`, which lets what has begun end and be written; a second one leaves at once."""
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        stop()
        log.info("%s: stopping: what has begun is finished and written; Ctrl-C again leaves at once", job)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def line(
    done: int, planned: int, noun: str, rate: float, written: int, errors: Counter[str], cost: float | None
) -> str:
    """Where a run stands, for the terminal."""
    left = f"{clock((planned - done) / rate)} left" if rate > 0 else "starting"
    parts = [f"{done:,} of {planned:,} {noun}", f"{rate:.3g}/s", left, f"{written:,} written"]
    if errors:
        parts.append(
            f"{errors.total():,} errors ({', '.join(f'{key} {count}' for key, count in errors.most_common())})"
        )
    if cost is not None:
        parts.append(f"cost {cost:.2f}")
    return "  ".join(parts)


def table(stages: dict[str, StageTime], workers: dict[str, int], seconds: float) -> list[str]:
    """Where the time went, stage by stage."""
    lines = [f"{'stage':8} {'workers':>7} {'busy':>6} {'idle':>6} {'rows/s':>9} {'MB/s':>8}"]
    for name, num in workers.items():
        one = stages.get(name, StageTime())
        busy = min(1.0, one.busy_s / (num * seconds)) if seconds else math.nan
        lines.append(
            f"{name:8} {num:7} {busy:6.0%} {1 - busy:6.0%} {one.rows / seconds:9.3g} "
            f"{one.num_bytes / seconds / 1e6:8.3g}"
        )
    return lines
