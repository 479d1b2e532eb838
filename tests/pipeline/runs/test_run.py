"""A run's name belongs to one config, trouble with MLflow stops nothing, and times read as times."""

from __future__ import annotations

import os

import fsspec
import pytest
from mlflow import MlflowClient
from pydantic import Field

from pipeline.base.command_line import load, parse
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.log import clock
from pipeline.base.places import Folder
from pipeline.encode import EncodeConfig
from pipeline.ingest import IngestConfig
from pipeline.runs.config import RunConfig, saved_config
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


class Listing(RunConfig):
    pairs: tuple[Folder, ...] = ()


def test_a_name_serves_another_job_after_a_try_that_made_nothing_whatever_its_keys_meant(tmp_path):
    other = Listing(run="a", runs=str(tmp_path), pairs=("x",))
    for made in (False, True):
        with Run.open(config(tmp_path, run=f"a{made}"), "ingest") as run:
            if made:
                (run.folder / "weights").touch()
    with Run.open(other.model_copy(update={"run": "aFalse"}), "gallery") as again:
        pass
    assert saved_config(again.folder)["job"] == "gallery"
    with (
        pytest.raises(ConfigError, match="is a run of ingest, not of gallery; take another"),
        Run.open(other.model_copy(update={"run": "aTrue"}), "gallery"),
    ):
        pass
    (run.folder / "config.yaml").write_text("job: gallery\npairs: 5\n")
    with (
        pytest.raises(ConfigError, match="pairs: 5 -> "),
        Run.open(other.model_copy(update={"run": "aTrue"}), "gallery"),
    ):
        pass


def test_what_is_written_before_anything_is_made_binds_nobody(tmp_path):
    """A start that a wrong bundle ended leaves its label space, what it measured, and a manifest of nothing."""
    with Run.open(config(tmp_path), "ingest", facts={"bundle_digest": "cut"}) as run:
        for name in ("label_space.json", "throughput.json", "manifest.json"):
            (run.folder / name).write_text("{}")
    with Run.open(config(tmp_path), "ingest", facts={"bundle_digest": "whole"}):
        pass
    assert saved_config(run.folder)["bundle_digest"] == "whole"
    (run.folder / "prompts.json").touch()
    with (
        pytest.raises(ConfigError, match="bundle_digest: whole -> cut"),
        Run.open(config(tmp_path), "ingest", facts={"bundle_digest": "cut"}),
    ):
        pass


class Earlier(RunConfig):
    size_px: int = 64


class Sampling(Config):
    steps: int = 20
    order: int = 2


class Later(Earlier):
    sampling: Sampling = Sampling()
    shares: tuple[float, ...] = (0.5,)
    values: dict[int, int] = Field(default_factory=lambda: {255: 0})


def test_keys_that_came_later_are_no_difference_where_they_have_their_defaults(tmp_path):
    values = {"run": "a", "runs": str(tmp_path)}
    with Run.open(Earlier(**values), "ingest") as run:
        (run.folder / "weights").touch()
    for changes, told in (
        ({"sampling": {"order": 3}}, "sampling.order: 2 -> 3"),
        ({"shares": (0.25,)}, r"shares: \[0.5\] -> \[0.25\]"),
        ({"values": {255: 1}}, "values.255: 0 -> 1"),
    ):
        with pytest.raises(ConfigError, match=told), Run.open(Later(**values, **changes), "ingest"):
            pass
    with Run.open(Later(**values), "ingest"):
        pass
    assert saved_config(run.folder)["sampling"] == {"steps": 20, "order": 2}
    with pytest.raises(ConfigError, match="size_px: 64 -> 32"), Run.open(Later(**values, size_px=32), "ingest"):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no config any more"),
        (b"- a\n", "holds no config any more"),
        (b"a: [\n", "damaged"),
        (b"\xff", "damaged"),
    ],
)
def test_a_damaged_config_of_a_run_is_one_sentence(tmp_path, content, message):
    with Run.open(config(tmp_path), "ingest") as run:
        (run.folder / "weights").touch()
    (run.folder / "config.yaml").write_bytes(content)
    told = rf"a/config\.yaml: {message}.*; restore it, or take another --run name$"
    with pytest.raises(ConfigError, match=told), Run.open(config(tmp_path), "ingest"):
        pass


@pytest.mark.parametrize("place", ["it's here", 'the "new" ones', "a [1] & b;c", "r\u00fcns 100 %"])
def test_folders_of_runs_may_have_any_usual_name(tmp_path, place):
    there = config(tmp_path, runs=str(tmp_path / place))
    with Run.open(there, "ingest") as run:
        run.tracker.metrics({"pairs": 5})
    with Run.open(there, "ingest") as again:
        pass
    assert again.tracker.run_id == run.tracker.run_id
    assert MlflowClient(run.tracker.uri).get_run(run.tracker.run_id).data.metrics == {"pairs": 5}
    assert (tmp_path / place / "mlflow.db").is_file()


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
    with pytest.raises(ConfigError, match="train cannot write to an object store yet"), Run.open(there, "train"):
        pass
    with Run.open(there, "ingest", on_store=True) as run:
        assert str(run.folder) == "memory://runs/a"
    with fsspec.open("memory://runs/a/config.yaml", "rt") as file:
        assert "job: ingest" in file.read()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_a_run_whose_places_were_saved_as_they_were_given_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    values = {"run": "a", "runs": "runs", "pairs": ["pairs/"], "encoders": dict.fromkeys(PARTS, "parts")}
    encode = EncodeConfig.model_validate(values)
    with Run.open(encode, "encode"):
        (tmp_path / "runs/a/shards").mkdir()
        (tmp_path / "runs/a/shards/1.parquet").touch()
    saved = tmp_path / "runs/a/config.yaml"
    earlier = saved.read_text().replace(f"{tmp_path}/", "")
    assert "- pairs\n" in earlier and "text: parts" in earlier
    saved.write_text(earlier)
    with Run.open(encode, "encode"):
        pass
    saved.write_text(earlier.replace("- pairs\n", "- others\n"))
    with pytest.raises(ConfigError, match="pairs: .*others.* -> .*pairs"), Run.open(encode, "encode"):
        pass


PARTS = ("text", "image_vae", "annotation_vae")
