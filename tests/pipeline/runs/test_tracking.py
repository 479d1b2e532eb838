"""MLflow may be away, at the start or in the middle: that costs a run neither time nor, if it comes back, numbers."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.base.errors import ConfigError
from pipeline.ingest import IngestConfig
from pipeline.runs.mlflow_server import legal
from pipeline.runs.run import Run
from pipeline.runs.tracking import KNOWN_RUN, LateTracker, Tracker
from pipeline.tables.digest import DataDigest
from tests.conftest import free_port


def config(tmp_path: Path, **changes) -> IngestConfig:
    return IngestConfig.model_validate({"run": "a", "runs": str(tmp_path), "pairs": 5, **changes})


GOT: dict[int, list[dict]] = {}
"""Requests by the port that they came to."""


class Answers(BaseHTTPRequestHandler):
    """Takes whatever MLflow's client sends, and keeps it."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        GOT.setdefault(self.connection.getsockname()[1], []).append(json.loads(body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


@contextmanager
def answering(port: int) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_points_wait_for_a_server_that_is_away(said):
    port = free_port()
    tracker = Tracker(f"http://127.0.0.1:{port}", "0" * 32)
    began = time.monotonic()
    for step in range(20):
        tracker.metrics({"train/loss": 1.0 / (step + 1), "lr, peak": 0.1}, step)
    assert time.monotonic() - began < 0.2, "nobody waits for a server"
    assert not tracker.flush(0.2)
    with answering(port):
        assert tracker.flush(20)
        metrics = [metric for request in GOT[port] for metric in request["metrics"]]
    assert [metric["step"] for metric in metrics if metric["key"] == "train/loss"] == list(range(20))
    assert {metric["key"] for metric in metrics} == {"train/loss", legal("lr, peak")}
    assert {request["run_id"] for request in GOT[port]} == {"0" * 32}
    assert "does not answer" in said[0] and "lost if the job ends" in said[1]
    assert "20 points were kept" in said[2] and len(said) == 3


def test_a_first_start_without_a_server_is_an_error_soon(tmp_path, said, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    away = config(tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(ConfigError, match="does not answer: .*; check tracking_uri"), Run.open(away, "ingest"):
        pass
    assert time.monotonic() - began < 20
    with pytest.raises(ConfigError, match="check tracking_uri"), Run.open(away, "ingest"):
        pass


def test_a_run_goes_on_when_the_server_is_away_at_its_start(tmp_path, said, monkeypatch):
    with Run.open(config(tmp_path), "ingest") as run:
        known = json.loads((run.folder / KNOWN_RUN).read_text())
    assert known["run_id"] == run.tracker.run_id
    client_of_mlflow = MlflowClient.get_experiment_by_name

    def away(*_: object) -> None:
        raise MlflowException(
            "API request to http://me:secret@numbers:5000 failed"
        )  # INTERNAL_ERROR, as without a server

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", away)
    with Run.open(config(tmp_path), "ingest") as again:
        monkeypatch.setattr(MlflowClient, "get_experiment_by_name", client_of_mlflow)
        again.tracker.metrics({"pairs": 3}, 1)
    assert again.tracker == run.tracker
    assert "does not answer; the run goes on" in said[0] and "secret" not in said[0]
    found = MlflowClient(run.tracker.uri).get_run(run.tracker.run_id)
    assert found.data.metrics == {"pairs": 3} and found.info.status == "FINISHED"


def test_another_server_or_experiment_is_a_first_start(tmp_path, said):
    with Run.open(config(tmp_path), "ingest") as run:
        pass
    with Run.open(config(tmp_path, experiment="other"), "ingest") as other:
        pass
    assert other.tracker.run_id != run.tracker.run_id
    with (
        pytest.raises(ConfigError),
        Run.open(config(tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}"), "ingest"),
    ):
        pass


def test_what_a_run_logs_is_in_mlflow(tmp_path, said):
    with Run.open(config(tmp_path), "ingest") as run:
        tracker = pickle.loads(pickle.dumps(run.tracker))
        tracker.tags({"device": "NVIDIA H100"})
        tracker.text("a/b.txt", "words")
        picture = np.zeros((4, 4, 3), np.uint8)
        tracker.picture("samples/1.png", picture)
        (tmp_path / "page.html").write_text("page")
        tracker.artifact(tmp_path / "page.html")
        tracker.inputs({"training": [DataDigest("/x/latents", "abc", 2, 10, "def")]})
        tracker.artifact(tmp_path / "nowhere")
    client = MlflowClient(tracker.uri)
    found = client.get_run(tracker.run_id)
    assert found.data.tags["device"] == "NVIDIA H100" and "version.torch" in found.data.tags
    assert found.data.params["data.training"] == "abc"
    assert found.inputs
    (one,) = found.inputs.dataset_inputs
    assert (one.dataset.name, one.dataset.digest) == ("latents", "abc")
    assert json.loads(one.dataset.profile or "") == {"num_shards": 2, "num_bytes": 10, "encoders": "def"}
    assert {file.path for file in client.list_artifacts(tracker.run_id)} == {"a", "samples", "page.html"}
    assert len(said) == 1 and "nowhere" in said[0]


def test_a_bundle_becomes_a_model_version_once_and_is_not_copied(tmp_path, said):
    bundle = tmp_path / "weights"
    bundle.mkdir()
    (bundle / "bundle.json").write_text("{}")
    with Run.open(config(tmp_path), "ingest") as run:
        tags = {"digest": "0123", "label_space": "voc"}
        assert run.tracker.register(bundle, "joint/voc", {"loss": 0.123456789}, tags) == "1"
        assert run.tracker.register(bundle, "joint/voc", {"loss": 0.1}, tags) == "1"
        assert run.tracker.register(bundle, "joint/voc", {}, {"digest": "4567"}) == "2"
        assert run.tracker.register("s3://bucket/run/weights", "joint/voc", {}, {}) == "3"
    client = MlflowClient(run.tracker.uri)
    first = client.get_model_version("joint-voc", "1")
    assert first.source == bundle.as_uri() and first.run_id == run.tracker.run_id
    assert first.tags == {**tags, "score.loss": "0.123457"}
    assert client.get_model_version_by_alias("joint-voc", "newest").source == "s3://bucket/run/weights"
    assert not (tmp_path / "mlflow-artifacts").exists() or not list(
        (tmp_path / "mlflow-artifacts").rglob("bundle.json")
    )
    assert not said


def test_a_bundle_that_cannot_be_registered_is_a_warning(tmp_path, said):
    tracker = Tracker(f"http://127.0.0.1:{free_port()}", "0" * 32)
    assert tracker.register(tmp_path, "joint", {}, {}) is None
    assert len(said) == 1 and "did not register" in said[0]


def test_a_late_tracker_sends_what_was_logged_before_its_run_was_found(tmp_path):
    port, may = free_port(), threading.Event()

    def find() -> Tracker:
        may.wait(20)
        return Tracker(f"http://127.0.0.1:{port}", "0" * 32)

    late, refused = LateTracker(f"http://127.0.0.1:{port}", find), threading.Event()
    late.if_refused(refused.set)
    began = time.monotonic()
    late.metrics({"loss": 1.0}, 1)
    late.tags({"device": "one"})
    late.check()
    assert time.monotonic() - began < 1, "nobody waits"
    with answering(port):
        may.set()
        assert late.run_id == "0" * 32
        late.metrics({"loss": 2.0}, 2)
        late.finish("FINISHED")
        kept = GOT[port]
    sent = [metric["step"] for request in kept for metric in request.get("metrics", ())]
    assert sent == [1, 2], "in order"
    assert any(tag["key"] == "device" for request in kept for tag in request.get("tags", ()))
    assert not refused.is_set()
    assert pickle.loads(pickle.dumps(late)) == Tracker(late.uri, late.run_id)


def test_a_late_tracker_says_that_mlflow_cannot_be_used(said):
    def find() -> Tracker:
        raise ConfigError("no such server")

    late, refused = LateTracker("http://127.0.0.1:1", find), threading.Event()
    late.if_refused(refused.set)
    assert refused.wait(20)
    late.metrics({"loss": 1.0})
    late.text("manifest.json", "{}")
    late.finish("FAILED")
    for act in (late.check, lambda: late.finish("FINISHED")):
        with pytest.raises(ConfigError, match="no such server"):
            act()
    assert not said, "nothing is sent in vain"
