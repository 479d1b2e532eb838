"""What is sent to a cluster, and what is refused; tests/chaos/test_submitted_killed.py goes the whole way."""

from __future__ import annotations

import os
import re
import sys

import pytest

from jobs import ending
from jobs.submit import main as submit_job
from pipeline.base.errors import ConfigError
from pipeline.caption import CaptionConfig
from pipeline.cluster.submission import ROOT, Submission, excludes, pinned
from pipeline.evaluate import EvaluateConfig
from pipeline.generate import GenerateConfig
from pipeline.ingest import IngestConfig
from pipeline.report import ReportConfig
from pipeline.training.tasks.joint import JointConfig


def submission(arguments=("jobs/configs/demo/generate.yaml", "--pairs", "5"), install=False, **changes) -> Submission:
    values = {"run": "a", "runs": "/shared/runs", "bundle": "bundles/garments", "prompts": "/shared/p.txt", "pairs": 5}
    return Submission("generate", GenerateConfig.model_validate({**values, **changes}), arguments, install)


def test_code_and_the_bundle_are_sent_and_nothing_else(tmp_path):
    for name in ("models/a.py", "bundles/one/x", "bundles/two/x", "runs/big", "jobs/b.py", "secret.env"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(excludes(tmp_path, {"models", "jobs", "bundles/one"})) == ["/bundles/two", "/runs", "/secret.env"]
    patterns = submission().runtime_env()["excludes"]
    assert "/tests" in patterns and "/docs" in patterns and "/.git" in patterns
    assert not {"/models", "/jobs", "/pipeline", "/bundles", "/bundles/garments"} & set(patterns)
    assert "/bundles" in submission(bundle="s3://bucket/bundle").runtime_env()["excludes"]


def test_dependencies_are_pinned_but_for_those_of_the_machines():
    found = submission(install=True).runtime_env()["pip"]["packages"]
    assert found == pinned(ROOT)
    assert all("==" in one for one in found), found
    assert not {one for one in found if one.split("==")[0] in ("ray", "torch")}
    assert "pip" not in submission().runtime_env()


def test_the_entrypoint_is_the_command_without_a_cluster():
    assert submission().entrypoint == "python -m jobs.generate jobs/configs/demo/generate.yaml --pairs 5"
    assert submission(("--prompts", "two words.txt")).entrypoint == "python -m jobs.generate --prompts 'two words.txt'"


def test_credentials_are_not_sent(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://numbers:5000")
    monkeypatch.setattr("pipeline.cluster.submission.revision", lambda: "0123abcd-dirty")
    environment = submission().runtime_env()
    assert environment["env_vars"] == {
        "RAY_JOB_STOP_WAIT_TIME_S": "600",  # or Ray kills a stopped job before it has saved
        "MLFLOW_TRACKING_URI": "http://numbers:5000",
        "JODIFFUSION_REVISION": "0123abcd-dirty",
    }
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(environment)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"runs": "runs"}, (), "give one that all its machines see"),
        ({"prompts": "p.txt"}, (), "prompts is 'p.txt', which is not sent"),
        ({"bundle": "bundles/nowhere"}, (), "no such bundle"),
        ({}, ("/elsewhere/generate.yaml",), "copy it to"),
    ],
)
def test_what_the_cluster_would_lose_is_refused(changes, arguments, message):
    with pytest.raises(ConfigError, match=message):
        submission(arguments, **changes).check()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train": ("/shared/latents", "runs/latents")}, "train"),
        ({"validation": "runs/latents"}, "validation"),
        ({"initial": "bundles/voc"}, "initial"),
    ],
)
def test_what_a_training_reads_must_be_on_the_cluster(changes, key):
    given = {"run": "a", "runs": "s3://bucket/runs", "train": ("s3://bucket/latents",), "validation": "/shared/latents"}
    recipe = {"optimisation": {"num_examples": 1, "batch_size": 1}}
    config = JointConfig.model_validate({**given, **recipe})
    wrong = JointConfig.model_validate({**given, **recipe, **changes})
    Submission("train_joint", config, (), install=False).check()
    with pytest.raises(ConfigError, match=f"{key} is '.*', which is not sent"):
        Submission("train_joint", wrong, (), install=False).check()


RUN = {"run": "a", "runs": "s3://bucket/runs"}


@pytest.mark.parametrize(
    ("job", "config", "key", "path"),
    [
        ("evaluate", EvaluateConfig, "test", {"sets": {"real": ["s3://b/real"]}, "test": "runs/test"}),
        ("evaluate", EvaluateConfig, "sets.real.train", {"sets": {"real": ["runs/real"]}, "test": "s3://b/test"}),
        ("evaluate", EvaluateConfig, "judged", {"sets": {"a": ["s3://a"]}, "test": "s3://b", "judged": "runs/made"}),
        ("report", ReportConfig, "real", {"pairs": "s3://b/made", "real": "runs/real"}),
        ("report", ReportConfig, "proof", {"pairs": "s3://b/made", "proof": "runs/proof"}),
        ("ingest", IngestConfig, "labels", {"dataset": "coco", "root": "s3://b/coco", "labels": "my/labels.yaml"}),
        ("ingest", IngestConfig, "captions", {"dataset": "voc", "root": "s3://b/voc", "captions": "captions.json"}),
        ("caption", CaptionConfig, "model", {"pairs": ["s3://b/pairs"], "model": "./blip"}),
    ],
)
def test_every_place_that_the_cluster_does_not_see_is_refused_whatever_its_key(job, config, key, path):
    with pytest.raises(ConfigError, match=f"{key} is '.*', which is not sent"):
        Submission(job, config.model_validate({**RUN, **path}), (), install=False).check()


def test_names_are_no_places():
    values = {"dataset": "coco", "root": "s3://b/coco", "labels": "voc"}
    Submission("ingest", IngestConfig.model_validate({**RUN, **values}), (), install=False).check()
    captions = {"pairs": ["s3://b/pairs"], "model": "Salesforce/blip2-opt-2.7b"}
    Submission("caption", CaptionConfig.model_validate({**RUN, **captions}), (), install=False).check()


def test_a_run_in_a_folder_of_runs_gets_a_name_that_a_cluster_takes():
    assert submission().name == "a"
    one, other = submission(run="sub/1").name, submission(run="sub-1").name
    assert re.fullmatch(r"[\w.-]+", one) and one.startswith("sub-1-") and other == "sub-1"


def test_more_than_a_dashboard_takes_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setattr("pipeline.cluster.submission.MAX_SENT_BYTES", 10**6)
    message = "MB would go with the job, but a cluster's dashboard takes 1; the most, .*garments"
    with pytest.raises(ConfigError, match=message):
        submission().check()


def test_a_tree_to_ingest_must_be_there_and_a_name_on_the_hub_need_not():
    given = {"run": "a", "runs": "s3://bucket/runs", "dataset": "huggingface", "root": "owner/name", "split": "train"}
    Submission("ingest", IngestConfig.model_validate(given), (), install=False).check()
    here = IngestConfig.model_validate({**given, "dataset": "voc", "root": "data/VOCdevkit"})
    with pytest.raises(ConfigError, match="root is 'data/VOCdevkit', which is not sent"):
        Submission("ingest", here, (), install=False).check()


def test_a_password_in_the_address_of_mlflow_is_refused(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI holds a password") as error:
        submission().check()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("generat", "did you mean generate?"),
        ("generate --pair 3", "--pair"),
        ("compact --pairs x", "compact is no job for a cluster"),
        (
            "generate --run a --runs /r --bundle /b --prompts /p --pairs 3",
            "no Ray cluster answers at http://127.0.0.1:1",
        ),
    ],
)
def test_no_cluster_a_typo_and_a_local_job_are_explained(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jobs.submit", "--address", "http://127.0.0.1:1", *arguments.split()])
    with pytest.raises(SystemExit) as stop, ending():
        submit_job()
    assert stop.value.code == 2
    assert message in "".join(capsys.readouterr())
