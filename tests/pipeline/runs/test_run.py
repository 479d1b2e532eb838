"""A run's name belongs to one config, trouble with MLflow stops nothing, and times read as times."""

from __future__ import annotations

import os

import fsspec
import pytest
from mlflow import MlflowClient

from pipeline.base.command_line import load, parse
from pipeline.base.errors import ConfigError
from pipeline.base.log import clock
from pipeline.ingest import IngestConfig
from pipeline.runs.run import Run
from pipeline.runs.tracking import Tracker


def config(tmp_path, **changes) -> IngestConfig:
    return IngestConfig.model_validate({"run": "a", "runs": str(tmp_path), "pairs": 5, **changes})


def test_a_run_that_has_made_something_refuses_another_config_and_says_what_changed(tmp_path):
    with Run.open(config(tmp_path), "ingest", frozenset({"pairs"})) as run:
        (run.folder / "shards").mkdir()
        (run.folder / "shards" / "x.parquet").touch()
    with Run.open(config(tmp_path, pairs=9), "ingest", frozenset({"pairs"})):
        pass
    with pytest.raises(ConfigError, match="seed: 0 -> 1"), Run.open(config(tmp_path, seed=1), "ingest"):
        pass
    with pytest.raises(ConfigError, match="of ingest, not of other"), Run.open(config(tmp_path, pairs=9), "other"):
        pass


def test_a_first_try_that_made_nothing_binds_nobody(tmp_path):
    with pytest.raises(RuntimeError), Run.open(config(tmp_path), "ingest") as run:
        for name in ("label_space.json", "throughput.json", "manifest.json"):  # what a graph notes that made no row
            (run.folder / name).write_text("{}")
        raise RuntimeError
    with Run.open(config(tmp_path, seed=1), "ingest"):
        pass


def test_one_folder_is_one_mlflow_run_whose_state_follows(tmp_path):
    with Run.open(config(tmp_path), "ingest") as run:
        run.tracker.metrics({"miou/real + synthetic, refined": 0.5}, step=3)
    with pytest.raises(KeyboardInterrupt), Run.open(config(tmp_path), "ingest") as again:
        raise KeyboardInterrupt
    assert again.tracker.run_id == run.tracker.run_id
    found = MlflowClient(run.tracker.uri).get_run(run.tracker.run_id)
    assert found.info.status == "KILLED"
    assert found.data.params["pairs"] == "5"
    assert found.data.metrics == {"miou/real _ synthetic_ refined": 0.5}


def test_mlflow_trouble_is_a_warning(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("pipeline.base.log.log.warning", lambda *words: warnings.append(words))
    with Run.open(config(tmp_path), "ingest") as run:
        Tracker(run.tracker.uri, "no such run").metrics({"pairs": 1})
    assert len(warnings) == 1 and "MLflow did not take" in warnings[0][0]


def test_credentials_in_urls_are_refused_since_configs_are_kept(tmp_path):
    for key in ("runs", "tracking_uri", "dataset"):
        with pytest.raises(ValueError, match="give them in the environment"):
            config(tmp_path, **{key: "https://me:secret@example.org/x"})
    path = tmp_path / "a.yaml"
    path.write_text("run: a\npairs: 3\nruns: https://me:secret@example.org/x\n")
    for call in (lambda: load(IngestConfig, path), lambda: parse(IngestConfig, ["--runs", "s3://me:secret@bucket"])):
        with pytest.raises(ConfigError, match="give them in the environment") as error:
            call()
        assert "secret" not in str(error.value)


def test_a_run_that_somebody_works_on_is_refused(tmp_path):
    with (
        Run.open(config(tmp_path), "ingest"),
        pytest.raises(ConfigError, match=f"process {os.getpid()} on .* works on this run"),
        Run.open(config(tmp_path), "ingest"),
    ):
        pass
    with Run.open(config(tmp_path), "ingest"):
        pass


def test_what_a_run_depends_on_must_not_change(tmp_path):
    with Run.open(config(tmp_path), "ingest", facts={"prompts_digest": "a"}) as run:
        (run.folder / "shards").mkdir()
        (run.folder / "shards" / "x.parquet").touch()
    with (
        pytest.raises(ConfigError, match="prompts_digest: a -> b"),
        Run.open(config(tmp_path), "ingest", facts={"prompts_digest": "b"}),
    ):
        pass


def test_a_run_may_be_on_a_store(tmp_path):
    there = config(tmp_path, runs="memory://runs", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(ConfigError, match="train keeps its runs in a folder"), Run.open(there, "train"):
        pass
    with Run.open(there, "ingest", on_store=True) as run:
        assert str(run.folder) == "memory://runs/a"
    with fsspec.open("memory://runs/a/config.yaml", "rt") as file:
        assert "job: ingest" in file.read()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text
