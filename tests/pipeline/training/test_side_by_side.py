"""Trainings run side by side, so many at once; a signal or a failure stops all of them, and begins no more."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipeline.base.errors import Stopped
from pipeline.training.loop import TrainingError
from pipeline.training.side_by_side import side_by_side


class Trainings:
    """Fabricated ones that run until they are told to stop, or for a while."""

    def __init__(self, folder: Path, num: int) -> None:
        self.began: list[str] = []
        self.running, self.most = 0, 0
        self._lock = threading.Lock()
        self.calls = {}
        for number in range(num):
            run = folder / str(number)
            run.mkdir()
            self.calls[str(run)] = lambda run=run: self.train(run)
        self.seconds = 0.05

    def train(self, run: Path) -> int:
        with self._lock:
            self.began.append(run.name)
            self.running += 1
            self.most = max(self.most, self.running)
        (run / "stop").unlink(missing_ok=True)  # as every training forgets what an earlier one was told
        until = time.monotonic() + self.seconds
        try:
            while time.monotonic() < until:
                if (run / "stop").exists():
                    raise Stopped(f"stopped in {run.name}")
                time.sleep(0.01)
            return int(run.name)
        finally:
            with self._lock:
                self.running -= 1


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_run_at_once_and_each_is_told_apart(tmp_path, at_once):
    trainings = Trainings(tmp_path, 7)
    found = side_by_side(trainings.calls, at_once)
    assert {Path(folder).name: result for folder, result in found.items()} == {str(one): one for one in range(7)}
    assert trainings.most == at_once and sorted(trainings.began) == [str(one) for one in range(7)]


def test_a_signal_stops_all_that_run_and_begins_no_more(tmp_path):
    trainings = Trainings(tmp_path, 4)
    trainings.seconds = 30.0
    handler = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Stopped, match="stopped in"):
        side_by_side(trainings.calls, 2)
    assert sorted(trainings.began) == ["0", "1"] and trainings.running == 0
    assert signal.getsignal(signal.SIGTERM) is handler


def test_one_that_ends_just_when_it_is_to_stop_leaves_the_others_for_the_next_time(tmp_path):
    def ends() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return 1

    runs = [tmp_path / "0", tmp_path / "1"]
    for run in runs:
        run.mkdir()
    with pytest.raises(Stopped, match="1 of 2 trainings are finished"):
        side_by_side({str(run): ends for run in runs})


def test_the_first_that_fails_stops_the_others_and_is_told(tmp_path):
    trainings = Trainings(tmp_path, 3)
    trainings.seconds = 30.0

    def fails() -> int:
        time.sleep(0.2)
        raise TrainingError("out of disk")

    with pytest.raises(TrainingError, match="out of disk"):
        side_by_side({**trainings.calls, str(tmp_path): fails}, 4)
    assert len(trainings.began) == 3 and trainings.running == 0


def test_one_that_has_just_started_hears_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.training.side_by_side.ASKS_S", 0.2)
    trainings = Trainings(tmp_path, 1)
    trainings.seconds = 30.0
    (call,) = trainings.calls.values()

    def slow() -> int:
        time.sleep(0.6)  # has not yet forgotten when it is first told
        return call()

    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Stopped):
        side_by_side(dict.fromkeys(trainings.calls, slow))
