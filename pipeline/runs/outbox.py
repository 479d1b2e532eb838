"""Outbox: what a process has to tell MLflow. A thread sends it, so that no step of a training waits for a server."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

log = logging.getLogger("jodiffusion")

MAX_POINTS = 10_000
"""Points that wait for a server that is away: a day at one every ten seconds."""
MAX_PARCEL_BYTES = 256 * 2**20
"""Bytes of pictures and texts that wait."""
MAX_NUMBERS = 1_000
"""Numbers that MLflow takes at once."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, FLUSHING_PAUSE_S = 2.0, 60.0, 1.0
MAX_TRIES = 3
"""Tries of a parcel that fails although the server takes numbers."""
MAX_SAID = 20
"""Different refusals that are told, each once."""


class AwayError(Exception):
    """The server does not answer; what was sent is worth another try."""


class Point(NamedTuple):
    """Numbers of one moment."""

    run_id: str
    values: Mapping[str, float]
    time_ms: int
    step: int


@dataclass(eq=False)
class Parcel:
    """Anything but numbers: what sends it, its size in memory, and how often that has failed."""

    send: Callable[[], None]
    num_bytes: int = 0
    tries: int = 0


class Outbox:
    """Points and parcels that wait to be sent, in order; bounded, the oldest are dropped. Safe to use from any thread.

    Its thread lives only while something waits. A server that does not answer is tried again after ever longer pauses,
    and everything waits for it; what it refuses is dropped with a warning.
    """

    def __init__(self, name: str, send: Callable[[list[Point]], None]) -> None:
        """
        Args:
            name: of the server, for messages.
            send: delivers points of one run; raises AwayError where it may be tried again.
        """
        self.name = name
        self._send = send
        self._changed = threading.Condition()
        self._points: deque[Point] = deque()
        self._parcels: deque[Parcel] = deque()
        self._in_flight = 0
        self._flushing = 0
        self._thread: threading.Thread | None = None
        self._away_since: float | None = None
        self._pause_s = 0.0
        self._num_lost = 0
        self._said: set[str] = set()

    def put(self, one: Point | Parcel) -> None:
        """Takes something to send; returns at once."""
        with self._changed:
            if isinstance(one, Point):
                self._points.append(one)
            else:
                self._parcels.append(one)
            self._bound()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
                self._thread.start()

    def flush(self, timeout_s: float) -> int:
        """Waits until everything is sent, at most `timeout_s`; returns how many points and parcels still wait."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()  # ends a pause
            while self._thread is not None and (left_s := deadline - time.monotonic()) > 0:
                self._changed.wait(left_s)
            self._flushing -= 1
            return len(self._points) + len(self._parcels) + self._in_flight

    def _run(self) -> None:
        while True:
            with self._changed:
                points = self._take_points()
                parcel = self._parcels.popleft() if self._parcels else None
                if not points and not parcel:
                    self._thread = None
                    self._changed.notify_all()
                    return
                self._in_flight = len(points) + (parcel is not None)
            if self._deliver(points, parcel):
                with self._changed:
                    self._changed.wait(FLUSHING_PAUSE_S if self._flushing else self._pause_s)

    def _deliver(self, points: list[Point], parcel: Parcel | None) -> bool:
        """One try. What could not be sent waits again; returns whether the server is away."""
        trouble: AwayError | None = None
        unsent: list[Point] = []
        kept: Parcel | None = None
        if points:
            try:
                self._try(lambda: self._send(points))
            except AwayError as error:
                trouble, unsent, kept = error, points, parcel
        if parcel and not trouble:
            try:
                self._try(parcel.send)
            except AwayError as error:
                parcel.tries += bool(points)
                if parcel.tries < MAX_TRIES:
                    trouble, kept = error, parcel
                else:
                    self._warn_of_refusal(error)
        with self._changed:
            self._points.extendleft(reversed(unsent))
            if kept:
                self._parcels.appendleft(kept)
            self._bound()
            self._in_flight = 0
            if trouble:
                self._pause_s = min(2 * self._pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
                if self._away_since is None:
                    self._away_since = time.monotonic()
                    log.warning(
                        "%s does not answer; the run goes on and keeps its numbers for later: %s", self.name, trouble
                    )
            elif self._away_since is not None:
                log.warning(
                    "%s answers again, after %.0f s: %d points were kept and are sent now, %d are lost",
                    self.name, time.monotonic() - self._away_since, len(points) + len(self._points), self._num_lost,
                )  # fmt: skip
                self._away_since, self._pause_s, self._num_lost = None, 0.0, 0
        return trouble is not None

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except AwayError:
            raise
        except Exception as error:  # of MLflow, its stores and their libraries; the thread must outlive them all
            self._warn_of_refusal(error)

    def _warn_of_refusal(self, error: Exception) -> None:
        text = str(error)
        if text not in self._said and len(self._said) < MAX_SAID:
            self._said.add(text)
            log.warning("MLflow did not take some numbers, the run goes on: %s", text)

    def _take_points(self) -> list[Point]:
        """The oldest points of one run, as many as one request may hold."""
        taken: list[Point] = []
        num_numbers = 0
        while self._points and (not taken or self._points[0].run_id == taken[0].run_id):
            num_numbers += len(self._points[0].values)
            if taken and num_numbers > MAX_NUMBERS:
                break
            taken.append(self._points.popleft())
        return taken

    def _bound(self) -> None:
        lost = max(0, len(self._points) - MAX_POINTS)
        for _ in range(lost):
            self._points.popleft()
        num_bytes = sum(parcel.num_bytes for parcel in self._parcels)
        while num_bytes > MAX_PARCEL_BYTES:
            oldest = next(parcel for parcel in self._parcels if parcel.num_bytes)
            self._parcels.remove(oldest)
            num_bytes -= oldest.num_bytes
            lost += 1
        if lost and not self._num_lost:
            log.warning("%s is not accepting data and the buffer is full; dropping the oldest", self.name)
        self._num_lost += lost
