"""A run says which commit, packages, device and data it stands on, and leaves out what nothing tells."""

from __future__ import annotations

import subprocess

import pyarrow as pa
import pytest
import torch

from pipeline.base.errors import ShardError
from pipeline.runs.provenance import REVISION, code_tags, device_name, revision
from pipeline.tables.conform import conform
from pipeline.tables.digest import DataDigest
from pipeline.tables.schema import LATENT, latent_schema
from pipeline.tables.shards import write_table


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


def test_a_digest_changes_with_shards_and_encoders(tmp_path):
    def write(folder: str, ids: list[str], encoders: str) -> DataDigest:
        latents = dict.fromkeys(("image_latent", "mask_latent", "image_embedding", "text_embedding"), [b"x"] * len(ids))
        rows = pa.table({"latent_id": ids, "pair_id": ids, "flipped": [False] * len(ids), **latents})
        table = conform(rows, LATENT).cast(latent_schema({"image_latent": (1, 1, 1)}, encoders))
        write_table(table, str(tmp_path / folder / "shards"))
        return DataDigest.of(str(tmp_path / folder))

    one = write("one", ["a", "b"], "e1")
    assert one.encoders == "e1" and one.num_shards == 1 and one.num_bytes > 0
    assert write("same", ["a", "b"], "e1").digest == one.digest
    assert write("other", ["a", "b"], "e2").digest != one.digest
    more = write("one", ["c"], "e1")
    assert more.digest != one.digest and more.num_shards == 2
    with pytest.raises(ShardError, match="no shards"):
        DataDigest.of(str(tmp_path / "empty"))
