"""A server that is away costs no step any time; what it cannot take is kept, in bounds, and sent when it is back."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.runs import outbox
from pipeline.runs.outbox import AwayError, Outbox, Parcel, Point


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Warnings, as they would be read."""
    words: list[str] = []
    monkeypatch.setattr("pipeline.runs.outbox.log.warning", lambda text, *values: words.append(text % values))
    monkeypatch.setattr(outbox, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outbox, "FLUSHING_PAUSE_S", 0.01)
    return words


class Server:
    """Takes points, unless it is away; then it takes its time to say so."""

    def __init__(self) -> None:
        self.away = False
        self.batches: list[list[Point]] = []

    def __call__(self, points: list[Point]) -> None:
        if self.away:
            time.sleep(0.002)
            raise AwayError("connection refused")
        self.batches.append(points)

    @property
    def steps(self) -> list[int]:
        return [point.step for batch in self.batches for point in batch]


def point(step: int, run_id: str = "a") -> Point:
    return Point(run_id, {"loss": 1.0}, 0, step)


def test_what_a_server_that_is_away_cannot_take_is_sent_later_in_order(said):
    server = Server()
    box = Outbox("MLflow at x", server)
    box.put(point(0))
    assert box.flush(5) == 0
    server.away = True
    began = time.monotonic()
    for step in range(1, 500):
        box.put(point(step))
    assert time.monotonic() - began < 0.5, "nobody waits for a server"
    assert box.flush(0.1) == 499
    server.away = False
    assert box.flush(5) == 0
    assert server.steps == list(range(500))
    assert len(said) == 2, said
    assert said[0].startswith("MLflow at x does not answer; the run goes on and keeps its numbers")
    assert "answers again" in said[1] and "499 points were kept" in said[1] and "0 are lost" in said[1]


def test_the_oldest_points_are_dropped_and_that_is_said(said, monkeypatch):
    monkeypatch.setattr(outbox, "MAX_POINTS", 10)
    server = Server()
    server.away = True
    box = Outbox("MLflow", server)
    for step in range(15):
        box.put(point(step))
    assert box.flush(0.05) == 10
    server.away = False
    assert box.flush(5) == 0
    assert server.steps == list(range(5, 15))
    assert sum("dropping the oldest" in text for text in said) == 1
    assert "10 points were kept and are sent now, 5 are lost" in said[-1]


def test_the_oldest_pictures_are_dropped_by_their_size(said, monkeypatch):
    monkeypatch.setattr(outbox, "MAX_PARCEL_BYTES", 100)
    server, sent = Server(), []
    server.away = True
    box = Outbox("MLflow", server)
    box.put(point(0))

    def parcel(name: str) -> Parcel:
        def send() -> None:
            server([])
            sent.append(name)

        return Parcel(send, 40)

    for name in "abc":
        box.put(parcel(name))
    server.away = False
    assert box.flush(5) == 0
    assert sent == ["b", "c"]


def test_what_is_refused_is_dropped_and_told_once(said):
    def refuse() -> None:
        raise ValueError("no such run")

    server = Server()
    box = Outbox("MLflow", server)
    for step in range(3):
        box.put(Parcel(refuse))
        box.put(point(step))
        assert box.flush(5) == 0
    assert said == ["MLflow did not take some numbers, the run goes on: no such run"]
    assert server.steps == [0, 1, 2]


def test_a_parcel_that_fails_while_numbers_pass_does_not_stop_the_rest(said):
    def fail() -> None:
        raise AwayError("status 500")

    server, sent = Server(), []
    box = Outbox("MLflow", server)
    box.put(Parcel(fail))
    box.put(Parcel(lambda: sent.append("next")))
    for step in range(outbox.MAX_TRIES):
        box.put(point(step))
        box.flush(0.05)
    assert box.flush(5) == 0
    assert sent == ["next"] and server.steps == [0, 1, 2]
    assert "status 500" in said[-2] or "status 500" in said[-1]


def test_one_request_holds_one_run_and_no_more_numbers_than_the_server_takes(said, monkeypatch):
    monkeypatch.setattr(outbox, "MAX_NUMBERS", 4)
    server = Server()
    server.away = True
    box = Outbox("MLflow", server)
    for step in range(6):
        box.put(point(step, run_id="a" if step < 5 else "b"))
    server.away = False
    assert box.flush(5) == 0
    assert [[one.step for one in batch] for batch in server.batches[-2:]] == [[4], [5]]
    assert server.steps == list(range(6))


def test_the_thread_ends_when_nothing_waits(said):
    box = Outbox("MLflow", Server())
    for step in range(3):
        box.put(point(step))
        assert box.flush(5) == 0
        assert not [thread for thread in threading.enumerate() if thread.name == "outbox" and thread is box._thread]
