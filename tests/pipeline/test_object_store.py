"""Runs, prompts and weights on an object store: a real S3 API on this machine."""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from models.reverse import SamplerSettings
from models.weights import ENCODERS, Bundle, digest
from pipeline.base.config import Workers
from pipeline.base.errors import DataError, ShardError
from pipeline.compact import CompactConfig, compact
from pipeline.encode import EncodeConfig, encode
from pipeline.generate import GenerateConfig, generate
from pipeline.label import LabelConfig, label
from pipeline.regenerate import compare, find_row
from pipeline.runs import history
from pipeline.stages.refine import Refine
from pipeline.storage.copies import local_copy
from pipeline.storage.publish import write_bytes
from pipeline.tables.rows import read_ids, read_shards
from pipeline.tables.shards import list_shards
from pipeline.training import proving
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.tasks.joint import JointConfig, train_joint
from pipeline.verify import verify
from tests.pipeline.fabricated import fit_at_once
from tests.tiny import NUM_TOKENS, save_pairs, save_tiny_bundle

SECRET = os.environ["AWS_SECRET_ACCESS_KEY"]
SERVERS: list[Any] = []
"""Those that were started; what they hold outlives them in this process."""


@pytest.fixture(scope="module")
def store():
    """URL of an empty bucket; where it is and the credentials are in the environment (see conftest)."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=int(os.environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1]), verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    SERVERS.append(server)
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    SERVERS[-1].stop()


@pytest.fixture
def soon_mine(monkeypatch):
    """A second driver is looked out for half a second at every start, not three."""
    monkeypatch.setattr("pipeline.storage.sole_driver.LEASE_PATIENCE_S", 4.0)


@pytest.mark.ray
def test_a_run_on_a_store_equals_one_on_a_disk(store, ray_session, soon_mine, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("JODIFFUSION_CACHE", str(tmp_path / "cache"))
    save_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "prompts.txt").write_text(f"a red bag\na blue dress\n{'a bag ' * NUM_TOKENS}\n")
    there = fsspec.filesystem("s3")
    there.put(str(tmp_path / "bundle"), "bucket/bundles/tiny", recursive=True)
    there.put(str(tmp_path / "prompts.txt"), "bucket/prompts.txt")

    def config(root: str, **changes) -> GenerateConfig:
        values = {
            "run": "made",
            "runs": f"{root}/runs",
            "bundle": f"{root}/bundles/tiny" if "://" in root else f"{root}/bundle",
            "prompts": f"{root}/prompts.txt",
            "pairs": 12,
            "sampler": SamplerSettings(steps=2, batch_size=4),
            "refine": Refine(min_area_px=4),
            "rows_per_shard": 4,
            "workers": Workers(threads=1),
            "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
        }
        return GenerateConfig.model_validate({**values, **changes})

    caplog.set_level(logging.INFO, logger="jodiffusion")
    puts = spy_on_puts(monkeypatch)
    manifest = generate(config(store, pairs=6))
    assert (manifest.num_pairs, manifest.errors_by_reason) == (4, {"prompt_too_long": 2})
    manifest = generate(config(store))
    assert (manifest.num_pairs, manifest.num_errors, manifest.num_duplicates) == (8, 4, 0)
    folder = f"{store}/runs/made"
    rows = read_shards([folder]).sort_by("pair_id")
    here = config(str(tmp_path))
    generate(here)
    for column, value in read_shards([str(here.folder)]).sort_by("pair_id").to_pydict().items():
        assert rows[column].to_pylist() == value, column
    assert verify(folder, deep=True) == []
    assert compare(find_row(folder, rows["pair_id"][0].as_py()), f"{store}/bundles/tiny").equal

    assert compact(CompactConfig(pairs=folder)).num_pairs == 8
    assert len(list_shards(folder)) == 1
    assert read_shards([folder]).sort_by("pair_id").equals(rows)
    content = there.cat_file(list_shards(folder)[0])
    assert pq.read_metadata(io.BytesIO(content)).num_rows == 8

    names = sorted(name.removeprefix("bucket/runs/made/").split("/")[0] for name in there.find("bucket/runs/made"))
    files = {"README.md", "config.yaml", "label_space.json", "manifest.json", "mlflow.json", "throughput.json"}
    assert set(names) == {*files, "shards", "errors"}
    everything = b"".join(there.cat_file(name) for name in there.find("bucket/runs")) + caplog.text.encode()
    assert SECRET.encode() not in everything + Path(tmp_path / "mlflow.db").read_bytes()
    assert "create_multipart_upload" not in puts and "copy_object" not in puts, "one PUT, no rename"


def spy_on_puts(monkeypatch) -> list[str]:
    """Names of the calls that this process makes."""
    import s3fs

    called: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    async def spy(self, method, *args, **kwargs):
        called.append(method)
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", spy)
    return called


@pytest.mark.ray
def test_a_bucket_that_is_not_there_is_one_clear_error(store, ray_session, tmp_path):
    with pytest.raises(DataError, match="s3://nobody/prompts.txt: cannot read prompts|cannot read s3://nobody"):
        generate(
            GenerateConfig(
                run="a", runs=str(tmp_path), bundle=str(save_tiny_bundle(tmp_path / "b") and tmp_path / "b"),
                prompts="s3://nobody/prompts.txt", pairs=1,
            )
        )  # fmt: skip


@pytest.mark.ray
@pytest.mark.chaos
def test_a_store_that_goes_away_costs_nothing_but_time(store, ray_session, tmp_path, monkeypatch):
    """Contract: one error when the network to the store fails, and the same command goes on when it is back."""
    from moto.server import ThreadedMotoServer

    save_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "prompts.txt").write_text("a red bag\na blue dress\n")
    config = GenerateConfig(
        run="interrupted",
        runs=f"{store}/runs",
        bundle=str(tmp_path / "bundle"),
        prompts=str(tmp_path / "prompts.txt"),
        pairs=40,
        sampler=SamplerSettings(steps=2, batch_size=4),
        rows_per_shard=4,
        workers=Workers(threads=1),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
    )
    folder = str(config.folder)

    def unplug():
        while not list_shards(folder):
            time.sleep(0.05)
        SERVERS[-1].stop()

    thread = threading.Thread(target=unplug, daemon=True)
    thread.start()
    with pytest.raises((ShardError, DataError), match=r"cannot (write|read|reach) s3://bucket/runs/interrupted"):
        generate(config)
    thread.join()
    SERVERS.append(ThreadedMotoServer(port=int(os.environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1]), verbose=False))
    SERVERS[-1].start()
    assert 0 < len(read_ids(folder)) < 40
    monkeypatch.setattr("pipeline.storage.sole_driver.LEASE_PATIENCE_S", 2.0)  # for what the first start left
    manifest = generate(config)
    assert (manifest.num_pairs, manifest.num_errors, manifest.num_duplicates) == (40, 0, 0)
    assert verify(folder, deep=True) == []


@pytest.mark.ray
def test_latents_and_a_training_live_on_a_store_and_go_on(store, ray_session, soon_mine, tmp_path, monkeypatch):
    monkeypatch.setenv("JODIFFUSION_CACHE", str(tmp_path / "cache"))
    there = fsspec.filesystem("s3")
    there.put(str(save_pairs(tmp_path / "pairs", 16)), "bucket/pairs", recursive=True)
    bundle = save_tiny_bundle(tmp_path / "bundle")
    there.put(str(tmp_path / "bundle"), "bucket/bundles/initial", recursive=True)
    common = {"runs": f"{store}/trained", "workers": {"threads": 1}, "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    parts = f"{store}/bundles/initial"
    encoders = {"text": parts, "image_vae": f"{parts}/image_vae", "annotation_vae": f"{parts}/annotation_vae"}
    latents = {"run": "latents", "pairs": [f"{store}/pairs"], "encoders": encoders, "size_px": 16, **common}
    encode(EncodeConfig.model_validate(latents))

    def config(num_examples: int) -> JointConfig:
        values = {
            "run": "joint",
            "train": [f"{store}/trained/latents"],
            "validation": f"{store}/trained/latents",
            "initial": parts,
            "optimisation": {"num_examples": num_examples, "batch_size": 8},
            "checkpoint_examples": 16,
            **common,
        }
        return JointConfig.model_validate(values)

    train_joint(config(32))
    assert Checkpoints(f"{store}/trained/joint").steps() == [4, 2]
    train_joint(config(64))
    assert Checkpoints(f"{store}/trained/joint").steps() == [8, 6]

    assert json.loads(there.cat_file("bucket/trained/joint/scores.json"))["examples"] == 64
    assert [point["examples"] for point in history.read(f"{store}/trained/joint")][-1] == 64
    made = Bundle.load(local_copy(f"{store}/trained/joint/weights"))
    assert made.net.config == bundle.net.config and made.digest != bundle.digest
    assert digest(local_copy(f"{store}/trained/joint/weights"), ENCODERS) == digest(tmp_path / "bundle", ENCODERS)
    assert SECRET.encode() not in there.cat_file("bucket/trained/joint/config.yaml")


@pytest.mark.ray
def test_pictures_on_a_store_are_labelled_there(store, ray_session, soon_mine, tmp_path, monkeypatch):
    """Trainings on a store are run above; here they are but drawn weights."""
    monkeypatch.setenv("JODIFFUSION_CACHE", str(tmp_path / "cache"))
    there = fsspec.filesystem("s3")
    there.put(str(save_pairs(tmp_path / "some", 32, num_labelled=12)), "bucket/some", recursive=True)
    there.put(str(save_pairs(tmp_path / "validation", 8, "validation")), "bucket/held-out", recursive=True)

    def fit(task, config, run):
        with tempfile.TemporaryDirectory() as scratch:
            scores = fit_at_once(task, config, SimpleNamespace(folder=Path(scratch)))
            for path in Path(scratch).rglob("*.*"):
                write_bytes(f"{run.folder}/{path.relative_to(scratch)}", path.read_bytes())
        return scores

    monkeypatch.setattr(proving, "fit", fit)
    values = {
        "run": "labels", "runs": f"{store}/labelled", "pairs": f"{store}/some", "validation": f"{store}/held-out",
        "seeds": 2, "holds": ["held"], "ignore_below": [0.0], "steps": 2,
        "batch_size": 4, "width": 4, "even_if_worse": True,
        "workers": {"threads": 1}, "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
    }  # fmt: skip

    manifest = label(LabelConfig.model_validate(values))

    assert (manifest.num_pairs, manifest.num_unlabelled) == (20, 0)
    assert verify(f"{store}/labelled/labels", deep=True) == []
    rows = read_shards([f"{store}/labelled/labels"], ["origin", "class_ids"])
    assert rows["origin"].unique().to_pylist() == ["labelled"]
    assert b"labelled pairs alone" in there.cat_file("bucket/labelled/labels/proof.md")
