"""How a job ends: its words and its exit code, from its very first import on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray.exceptions

from jobs import ending
from models.weights import WeightsError
from pipeline.base.errors import ClusterError, ConfigError, Stopped


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Stopped("stopped: 3 of 4 pairs are in runs/a"), 130, "runs/a; run the same command again to go on"),
        (KeyboardInterrupt(), 130, "stopped; run the same command again to go on"),
        (ConfigError("seed: must be positive"), 2, "error: seed: must be positive"),
        (WeightsError("no such bundle"), 2, "error: no such bundle"),
        (ClusterError("processes died. Run the same command again"), 1, "error: processes died. Run the same"),
        (ray.exceptions.NodeDiedError("x"), 1, "a process or its machine died too often. Run the same command again"),
        (ray.exceptions.OutOfMemoryError("x\ny"), 1, "ran out of memory"),
    ],
)
def test_every_end_has_its_words_and_its_code(error, code, words, capsys):
    with pytest.raises(SystemExit) as stop, ending():
        raise error
    told = capsys.readouterr().err
    assert stop.value.code == code and words in told and len(told.strip().splitlines()) == 1


def test_a_mistake_of_ours_keeps_its_trace():
    with pytest.raises(ZeroDivisionError), ending():
        _ = 1 / 0


def test_a_python_without_docstrings_is_told():
    job = subprocess.run([sys.executable, "-OO", "-m", "jobs.generate", "--help"], capture_output=True, text=True)
    assert job.returncode == 2 and job.stderr.startswith("error: Ray Data needs the docstrings")
    assert subprocess.run([sys.executable, "-OO", "-m", "jobs"], capture_output=True).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("wait_s", [0, 0.5])
def test_a_stop_among_the_imports_is_one_line(number, wait_s):
    job = subprocess.Popen([sys.executable, "-m", "jobs.generate", "--help"], stderr=subprocess.PIPE, text=True)
    while not _catches(job.pid, signal.SIGTERM):  # the first lines of the package `jobs` have run
        assert job.poll() is None
        time.sleep(0.001)
    time.sleep(wait_s)
    job.send_signal(number)
    _, told = job.communicate(timeout=60)
    assert (job.returncode, told) == (130, "\nstopped; run the same command again to go on\n")


def _catches(pid: int, number: int) -> bool:
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (number - 1) & 1)
