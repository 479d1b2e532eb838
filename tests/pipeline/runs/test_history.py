"""A history survives kills: half a line is skipped, and what was logged beyond the last checkpoint does not count."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pipeline.runs import history


@pytest.fixture(params=["local", "store"])
def folder(request, tmp_path):
    return str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path.name}/run"


def test_points_come_back_in_order(folder):
    assert history.read(folder) == []
    history.append(folder, {"examples": 10, "loss": torch.tensor(0.5), "mask": np.float32(0.25)})
    history.append(folder, {"examples": 20, "loss": 0.4})
    history.append(folder, {"examples": 20, "validation": {"loss": np.float64(0.75)}})
    assert history.read(folder) == [
        {"examples": 10, "loss": 0.5, "mask": 0.25},
        {"examples": 20, "loss": 0.4, "validation": {"loss": 0.75}},
    ]


def test_a_start_from_an_earlier_checkpoint_makes_later_points_void(folder):
    for examples in (10, 20, 30, 40):
        history.append(folder, {"examples": examples, "loss": 1.0})
    history.begin(folder, 20)
    assert [point["examples"] for point in history.read(folder)] == [10, 20]
    history.append(folder, {"examples": 35, "loss": 2.0})
    assert [(point["examples"], point["loss"]) for point in history.read(folder)] == [(10, 1), (20, 1), (35, 2)]
    history.begin(folder, 0)
    assert history.read(folder) == [{"examples": 0}]


def test_the_half_line_of_a_killed_process_is_skipped(tmp_path):
    history.append(tmp_path, {"examples": 10, "loss": 1.0})
    with open(tmp_path / history.FILE, "ab") as file:
        file.write(b'{"examples": 20, "lo')
    assert [point["examples"] for point in history.read(tmp_path)] == [10]
    history.append(tmp_path, {"examples": 30, "loss": 1.0})
    assert [point["examples"] for point in history.read(tmp_path)] == [10, 30]
    with open(tmp_path / history.FILE, "ab") as file:
        file.write(b'[1]\n{"loss": 1}\n"x"\n{"examples": null}\n')
    assert len(history.read(tmp_path)) == 2


def test_on_a_store_the_file_stays_small_and_keeps_scores(monkeypatch, tmp_path):
    monkeypatch.setattr(history, "MAX_STORED_POINTS", 10)
    folder = f"memory://{tmp_path.name}/small"
    for examples in range(100):
        history.append(folder, {"examples": examples, "loss": 1.0})
        if examples == 40:
            history.append(folder, {"examples": examples, "validation": {"loss": 2.0}})
    points = history.read(folder)
    assert len(points) < 15 and points[-1]["examples"] == 99
    assert [point["validation"] for point in points if "validation" in point] == [{"loss": 2.0}]


def test_a_history_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("pipeline.runs.history.log.warning", lambda text, *values: said.append(text % values))
    (tmp_path / "file").write_text("")
    history.append(tmp_path / "file", {"examples": 1})
    assert len(said) == 1 and "lacks a point" in said[0]


def test_numbers_that_are_none_are_kept_as_they_are(tmp_path):
    history.append(tmp_path, {"examples": 1, "loss": float("nan")})
    assert json.dumps(history.read(tmp_path)) == '[{"examples": 1, "loss": NaN}]'
