"""MLflow's database is whole or not there, and what is wrong with it is said."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient

from pipeline.base.errors import ConfigError
from pipeline.ingest import IngestConfig
from pipeline.runs import mlflow_server
from pipeline.runs.run import Run


def config(tmp_path: Path, **changes) -> IngestConfig:
    return IngestConfig.model_validate({"run": "a", "runs": str(tmp_path), "pairs": 5, **changes})


def test_a_database_that_cannot_be_used_is_told_at_once(tmp_path, said):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "mlflow.db").write_text("no database, whatever it is called" * 99)
    (tmp_path / "folder" / "mlflow.db").mkdir(parents=True)
    began = time.monotonic()
    for name, why in (("text", "file is not a database"), ("folder", "unable to open database file")):
        with (
            pytest.raises(ConfigError, match=f"{name}/mlflow.db: MLflow cannot use this database: {why}. Free"),
            Run.open(config(tmp_path, runs=str(tmp_path / name)), "ingest"),
        ):
            pass
    assert time.monotonic() - began < 20, "MLflow alone tries for 100 s"


def test_a_database_whose_disk_is_full_is_told(tmp_path, said, monkeypatch):
    def full(*_: object) -> None:
        raise sqlalchemy.exc.OperationalError("DROP TABLE runs", None, sqlite3.OperationalError("disk is full"))

    monkeypatch.setattr("pipeline.runs.mlflow_server.connect", full)
    with (
        pytest.raises(ConfigError, match="cannot use this database: disk is full. Free the disk") as error,
        Run.open(config(tmp_path), "ingest"),
    ):
        pass
    assert "TABLE" not in str(error.value)
    assert not list(tmp_path.glob(".mlflow.db.draft*"))


@pytest.fixture
def new_database(monkeypatch, one_mlflow_database):
    monkeypatch.setattr(mlflow_server, "connect", one_mlflow_database)


def test_a_job_that_is_killed_while_it_makes_the_database_breaks_nothing(tmp_path, said, new_database):
    process = multiprocessing.get_context("fork").Process(target=_open_and_close, args=(tmp_path,))
    process.start()
    draft = tmp_path / ".mlflow.db.draft"
    deadline = time.monotonic() + 60
    while not (draft.exists() and draft.stat().st_size > 100_000):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.join()
    assert draft.exists() and not (tmp_path / "mlflow.db").exists(), "it was killed half-way"
    _open_and_close(tmp_path)
    assert not list(tmp_path.glob(".mlflow.db.draft*"))


def test_jobs_that_begin_at_once_make_one_database(tmp_path, said, new_database):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_open_and_close, args=(tmp_path, f"run{one}")) for one in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    found = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert {run.info.run_name for run in found} == {"run0", "run1"}


def _open_and_close(folder: Path, name: str = "a") -> None:
    with Run.open(config(folder, run=name), "ingest"):
        pass
