"""A training hears a file, a signal and the word of the cluster, and says in one line why it begins again."""

from __future__ import annotations

import os
import signal

import fsspec
import pytest

from pipeline.base.log import log
from pipeline.training.notice import Listening, Notice, Telling, ask_to_stop, forget, heard


@pytest.fixture
def listening():
    before = signal.getsignal(signal.SIGTERM)
    callback = Listening()
    callback.after_init_train_context()
    yield callback
    callback.after_init_train_context()
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("place", ["{tmp}/run", "memory://run"])
def test_a_file_in_the_run_stops_it_until_it_is_forgotten(tmp_path, listening, place):
    fsspec.filesystem("memory").store.clear()
    run = place.format(tmp=tmp_path)
    forget(run)
    assert heard(run, looks=True) is Notice.NONE
    ask_to_stop(run)
    assert heard(run, looks=True) is Notice.STOP
    assert heard(run, looks=False) is Notice.NONE, "one worker looks for all"
    forget(run)
    assert heard(run, looks=True) is Notice.NONE


def test_a_worker_that_is_being_ended_leaves_alone(tmp_path, listening):
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard(str(tmp_path), looks=False) is heard(str(tmp_path), looks=True) is Notice.LEAVE
    ask_to_stop(str(tmp_path))
    assert heard(str(tmp_path), looks=True) is Notice.STOP, "the user's word counts more"
    listening.after_init_train_context()
    assert heard(str(tmp_path), looks=False) is Notice.NONE, "a new start has heard nothing yet"


def test_a_store_that_does_not_answer_stops_nothing(monkeypatch, listening):
    def refuse(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr(fsspec.filesystem("memory"), "isfile", refuse)
    assert heard("memory://run", looks=True) is Notice.NONE


def test_of_several_words_the_gravest_counts():
    assert Notice.NONE < Notice.DRAIN < Notice.LEAVE < Notice.STOP and not Notice.NONE


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("a trace\n  of lines\nCUDA is gone\n\n"), "CUDA is gone"), (OSError(), "OSError")],
)
def test_a_lost_worker_is_told_in_one_line(monkeypatch, error, reason):
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda text, *values: said.append(text % values))
    Telling().after_exception(None, {3: ValueError("later"), 1: error})
    assert said == [f"worker 1 was lost ({reason}); all begin again from the last checkpoint"]
