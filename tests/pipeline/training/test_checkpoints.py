"""Checkpoints: whole or not there, newest and best kept, broken ones passed over, on disks and stores."""

from __future__ import annotations

import logging
import math

import fsspec
import pytest
import torch

from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.training.checkpoints import Checkpoints, Header, read_header


@pytest.fixture(params=["disk", "store"])
def run(request, tmp_path, monkeypatch):
    monkeypatch.setenv("JODIFFUSION_CACHE", str(tmp_path / "cache"))
    if request.param == "disk":
        yield str(tmp_path / "run")
    else:
        yield "memory://runs/run"
        fsspec.filesystem("memory").store.clear()


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"net.weight": torch.full((3, 4), value), "optimizer.weight.step": torch.tensor(value)}


def write(run: str, *steps: int, keep: int = 2, scores: dict[int, float] | None = None) -> Checkpoints:
    checkpoints = Checkpoints(run, keep)
    for step in steps:
        score = (scores or {}).get(step, math.nan)
        checkpoints.write(tensors(step), Header(step, 8 * step, 1.5, score))
    checkpoints.wait()
    return checkpoints


def test_what_is_written_is_read(run):
    with write(run, 7).open(7) as (found, facts):
        assert facts.step == 7 and facts.examples == 56 and facts.seconds == 1.5
        assert {name: tensor.tolist() for name, tensor in found.items()} == {
            name: tensor.tolist() for name, tensor in tensors(7).items()
        }


def test_a_copy_of_a_store_serves_all_workers_of_a_machine_and_goes(run, tmp_path, monkeypatch):
    checkpoints = write(run, 1)
    assert checkpoints.newest() == 1
    filesystem, _ = fsspec.core.url_to_fs(run)
    monkeypatch.setattr(filesystem, "get_file", None)  # what was fetched to be checked is there
    for one in (checkpoints, Checkpoints(run)):
        with one.open(1) as (found, _):
            assert found["optimizer.weight.step"] == 1
    checkpoints.remove_copies()
    assert not [path for path in tmp_path.glob("cache/*") if not path.name.startswith(".")]
    assert Checkpoints(run).steps() == [1]


def test_the_newest_stay_and_the_best(run):
    scores = {1: 0.3, 2: 0.1, 3: 0.2}
    assert write(run, 1, 2, 3, 4, 5, scores=scores).steps() == [5, 4, 2]
    assert write(run, 6).steps() == [6, 5, 2], "a later start reads the scores from the files"


def test_a_broken_newest_is_told_and_the_one_before_is_taken(run, monkeypatch, caplog):
    checkpoints = write(run, 1, 2, 3, keep=3)
    filesystem, path = fsspec.core.url_to_fs(checkpoints.path(3))
    filesystem.pipe_file(path, filesystem.cat_file(path)[:-5])
    filesystem, path = fsspec.core.url_to_fs(checkpoints.path(2))
    content = bytearray(filesystem.cat_file(path))
    content[-1] ^= 1  # a bit that turned over, in a file of the right length
    filesystem.pipe_file(path, bytes(content))
    monkeypatch.setattr(log, "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest() == 1
    assert "step_00000003.safetensors: broken checkpoint" in caplog.text
    assert "is not what was written" in caplog.text
    with pytest.raises(DataError, match="broken checkpoint"), checkpoints.open(3):
        pass
    assert read_header(checkpoints.path(2)).step == 2
    filesystem.pipe_file(path, b"nonsense" * 9)
    with pytest.raises(DataError, match="broken checkpoint"):
        read_header(checkpoints.path(2))


def test_nothing_is_begun_anew_without_a_word(run, monkeypatch):
    checkpoints = write(run, 1)
    filesystem, path = fsspec.core.url_to_fs(checkpoints.path(1))
    filesystem.pipe_file(path, filesystem.cat_file(path)[:-5])
    with pytest.raises(DataError, match="all checkpoints are broken; remove the folder"):
        checkpoints.newest()

    def unreadable(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.training.checkpoints.safe_open", unreadable)
    with pytest.raises(DataError, match="cannot read .*Permission denied"):
        checkpoints.newest()


def test_a_broken_one_does_not_take_the_place_of_those_behind_it(tmp_path):
    checkpoints = write(str(tmp_path), 90, 100, scores={100: 0.1})
    path = tmp_path / "checkpoints/step_00000100.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    later = Checkpoints(str(tmp_path), keep=1)
    assert later.newest() == 90
    later.write(tensors(95), Header(95, 760))
    later.wait()

    assert later.steps() == checkpoints.steps() == [95]


def test_old_ones_that_cannot_be_listed_stop_nothing(tmp_path, monkeypatch, caplog):
    checkpoints = write(str(tmp_path), 1)

    def away():
        raise DataError("the store does not answer")

    monkeypatch.setattr(checkpoints, "steps", away)
    monkeypatch.setattr(log, "propagate", True)
    checkpoints.write(tensors(2), Header(2, 16))
    checkpoints.wait()
    assert "old checkpoints stay for now: the store does not answer" in caplog.text


def test_none_is_none(run):
    assert Checkpoints(run).newest() == -1


def test_what_cannot_be_written_is_a_warning_and_keeps_the_ones_before(tmp_path, monkeypatch, caplog):
    checkpoints = write(str(tmp_path), 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.training.checkpoints.save_file", full)
    monkeypatch.setattr(log, "propagate", True)
    checkpoints.write(tensors(2), Header(2, 16))
    checkpoints.wait()
    assert checkpoints.steps() == [1]
    assert "checkpoint of step 2 was not kept: " in caplog.text and "No space left on device" in caplog.text
    assert not list(tmp_path.glob("checkpoints/.*")), "no draft stays"


def test_drafts_of_killed_writers_are_removed(tmp_path):
    checkpoints = write(str(tmp_path), 1)
    draft = tmp_path / "checkpoints" / ".abc.draft"
    draft.mkdir()
    (draft / "step_00000002.safetensors").write_bytes(b"half")
    checkpoints.remove_drafts()
    assert [one.name for one in (tmp_path / "checkpoints").iterdir()] == ["step_00000001.safetensors"]
