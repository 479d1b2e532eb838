"""MLflow's database is whole or not there, and what is wrong with it is said."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient
from pydantic import Field

from pipeline.base.errors import ConfigError
from pipeline.ingest import IngestConfig
from pipeline.runs import mlflow_server
from pipeline.runs.config import RunConfig
from pipeline.runs.mlflow_server import LONGEST_NAME, LONGEST_PARAMETER, legal
from pipeline.runs.run import Run
from pipeline.runs.tracking import KNOWN_RUN


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


class Rules(RunConfig):
    rate: float = 0.1
    num: int = 2
    rules: dict[str, float] = Field(default_factory=dict)
    pairs: tuple[str, ...] = ()


CHANGEABLE = frozenset({"num", "rules"})


def opened(tmp_path: Path, name: str = "a", **changes: Any) -> Any:
    """What MLflow knows of a run that was opened, made something, and ended."""
    config = Rules.model_validate({"run": name, "runs": str(tmp_path), **changes})
    with Run.open(config, "ingest", CHANGEABLE) as run:
        (run.folder / "weights").mkdir(exist_ok=True)
        run.tracker.metrics({"loss": config.rate})
    return MlflowClient(run.tracker.uri).get_run(run.tracker.run_id)


def test_a_corrected_config_does_not_stand_under_the_parameters_of_the_try_that_failed(tmp_path, said):
    with (
        pytest.raises(RuntimeError),
        Run.open(Rules(run="a", runs=str(tmp_path), rate=1.0), "ingest", CHANGEABLE) as failed,
    ):
        raise RuntimeError
    corrected = opened(tmp_path, rate=0.5)
    assert corrected.info.run_id != failed.tracker.run_id
    assert (corrected.data.params["rate"], corrected.data.metrics) == ("0.5", {"loss": 0.5})
    assert opened(tmp_path, rate=0.5).info.run_id == corrected.info.run_id and not said


def test_a_folder_that_was_deleted_and_begun_anew_is_a_new_mlflow_run(tmp_path, said):
    first = opened(tmp_path)
    shutil.rmtree(tmp_path / "a")
    second = opened(tmp_path, rate=7.0)
    assert second.info.run_id != first.info.run_id and second.data.params["rate"] == "7.0"


def test_a_run_that_has_made_something_is_known_by_its_folder_where_it_lost_its_note(tmp_path, said, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(mlflow_server.log, "info", lambda text, *values: told.append(text % values))
    first = opened(tmp_path)
    note = tmp_path / "a" / KNOWN_RUN
    for damage in (note.unlink, lambda: note.write_text('{"server": "sq'), lambda: note.write_text("[1]")):
        damage()
        assert opened(tmp_path).info.run_id == first.info.run_id
        assert "does not say which MLflow run is its own" in told.pop() and not told
    (tmp_path / "a" / "weights").rmdir()
    note.unlink()
    assert opened(tmp_path).info.run_id != first.info.run_id, "nothing was made, so that it begins anew"


def test_a_folder_that_was_moved_keeps_its_mlflow_run_and_a_copy_gets_its_own(tmp_path, said):
    one = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    first = opened(tmp_path / "old", **one)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = opened(tmp_path / "new", **one)
    assert moved.info.run_id == first.info.run_id and moved.data.tags["folder"] == str(tmp_path / "new/a")
    shutil.copytree(tmp_path / "new", tmp_path / "copy")
    assert opened(tmp_path / "copy", **one).info.run_id != first.info.run_id
    assert opened(tmp_path / "new", **one).info.run_id == first.info.run_id


def test_a_mlflow_run_that_was_deleted_is_made_anew(tmp_path, said):
    first = opened(tmp_path)
    MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").delete_run(first.info.run_id)
    second = opened(tmp_path)
    (tmp_path / "a" / KNOWN_RUN).write_text((tmp_path / "a" / KNOWN_RUN).read_text().replace(second.info.run_id, "x"))
    assert first.info.run_id != second.info.run_id == opened(tmp_path).info.run_id, "found by its folder"


def test_what_differs_on_going_on_is_told_by_tags_and_warned_of(tmp_path, said):
    def told(**changes: Any) -> dict[str, str]:
        said.clear()
        tags = opened(tmp_path, **changes).data.tags
        return {key: value for key, value in tags.items() if key.startswith("config.")}

    assert told(rules={"low": 0.9}) == {} and not said
    assert told(rules={"low": 0.1}, num=4) == {"config.rules.low": "0.1", "config.num": "4"}
    assert len(said) == 1 and said[0].endswith("tags: config.num = 4, config.rules.low = 0.1")
    assert told(rules={"low": 0.1}, num=4)["config.num"] == "4" and not said, "once"
    assert told() == {"config.rules.low": "(not set)", "config.num": "2"} and len(said) == 1


def test_tags_of_what_differs_are_called_as_its_parameters(tmp_path, said):
    names = {"real + synthetic": "real _ synthetic", "held, sure": "held_ sure", "y" * 240: "y" * 240}
    opened(tmp_path, rules=dict.fromkeys(names, 0.5))
    for rules, told in ((dict.fromkeys(names, 0.25), "0.25"), ({}, "(not set)")):
        tags = opened(tmp_path, rules=rules).data.tags
        found = {key: value for key, value in tags.items() if key.startswith("config.rules.")}
        assert found.pop(next(key for key in found if "yy" in key)) == told
        assert found == dict.fromkeys(("config.rules.real _ synthetic", "config.rules.held_ sure"), told)


def test_values_are_kept_as_long_as_mlflow_takes_them(tmp_path, said):
    pairs = tuple(f"runs/garments/seed-{number:03}" for number in range(60))
    params = opened(tmp_path, pairs=pairs).data.params
    assert params["pairs"].endswith("seed-059']") and len(params["pairs"]) > 1000
    many = opened(tmp_path, "b", pairs=pairs * 10).data.params["pairs"]
    assert len(many) == LONGEST_PARAMETER and many.endswith("...")


def test_names_are_those_that_mlflow_takes_and_stay_distinct(tmp_path, said):
    for name in ("train/loss", "iou/potted plant", "a.b-c_d", "größe", ".a", "a..b"):
        assert legal(name) == name
    odd = [
        "a//b",
        "a/b",
        "x/",
        "x",
        "../x",
        "/x",
        "./x",
        "..a",
        ".../a",
        "../..a",
        "...",
        "",
        ".",
        "C+",
        "C#",
        "तोता",
        "तीती",
        "a:b",
    ]
    odd += ["y" * 300, "y" * 299, "a + b", "a _ b", "a, b", "a , b", "a_ b"]
    names = [legal(name) for name in odd]
    assert len(set(names)) == len(odd) and max(map(len, names)) <= LONGEST_NAME
    assert legal("gro\u0308ße") == "größe", "one name in two forms"
    with Run.open(Rules(run="a", runs=str(tmp_path), rules=dict.fromkeys(odd, 0.5)), "ingest") as run:
        run.tracker.metrics({name: place for place, name in enumerate(odd)})
    found = MlflowClient(run.tracker.uri).get_run(run.tracker.run_id).data
    assert found.metrics == {name: place for place, name in enumerate(names)} and not said
    assert sum(name.startswith("rules.") for name in found.params) == len(odd)


def test_one_refused_name_loses_no_others(tmp_path, said, monkeypatch):
    monkeypatch.setattr("pipeline.runs.tracking.legal", str)
    rules = {"a//b": 1.0, "c": 2.0}
    with Run.open(Rules(run="a", runs=str(tmp_path), rules=rules), "ingest") as run:
        for step in range(3):
            run.tracker.metrics({"loss": 9.0 - step, "iou/road//rail": 0.5}, step)
        run.tracker.tags({"//": "x", "device": "one"})
        run.tracker.metrics({f"k{number}": 1.0 for number in range(1001)})
    found = MlflowClient(run.tracker.uri).get_run(run.tracker.run_id).data
    assert (found.metrics["loss"], found.params["rules.c"], found.tags["device"]) == (7.0, "2.0", "one")
    assert len(found.metrics) == 1002
    assert [name in "".join(said) for name in ("a//b", "road//rail", "'//'")] == [True] * 3
