"""A run says which commit, packages and device it stands on, and leaves out what nothing tells."""

from __future__ import annotations

import subprocess

import pytest
import torch

from pipeline.runs.provenance import REVISION, code_tags, device_name, revision


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.delenv(REVISION, raising=False)
    revision.cache_clear()
    yield
    revision.cache_clear()


def test_the_revision_of_a_checkout_and_whether_it_was_changed(tmp_path):
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    (tmp_path / "new").write_text("untracked files are no change")
    commit = git("rev-parse", "HEAD").strip()
    assert revision(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    revision.cache_clear()
    assert revision(tmp_path) == f"{commit}-dirty"


def test_without_a_checkout_the_environment_tells_or_nothing_does(tmp_path, monkeypatch):
    assert revision(tmp_path) == ""
    revision.cache_clear()
    monkeypatch.setenv(REVISION, "abc-dirty")
    assert revision(tmp_path) == "abc-dirty"
    monkeypatch.setattr("pipeline.runs.provenance.revision", lambda: "abc-dirty")
    assert {"mlflow.source.git.commit": "abc", "git_dirty": "true"}.items() <= code_tags().items()
    monkeypatch.setattr("pipeline.runs.provenance.revision", lambda: "")
    assert set(code_tags()) == {"version.python", "version.torch", "version.ray"}


def test_without_git_the_revision_is_left_out(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert revision(tmp_path) == ""


def test_the_device_has_a_name():
    assert device_name(torch.device("cpu"))
