"""Tracking: numbers, pictures and files of a run in MLflow. MLflow may be away: that costs numbers, never a run."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.config import holds_credentials
from pipeline.base.errors import ConfigError
from pipeline.outbox import AwayError, Outbox, Parcel, Point
from pipeline.provenance import code_tags
from pipeline.runs.config import RunConfig
from pipeline.storage.files import read_bytes
from pipeline.storage.publish import write_bytes
from pipeline.tables.digest import DataDigest

log = logging.getLogger("jodiffusion")

KNOWN_RUN = "mlflow.json"
"""File in a run's folder that says which MLflow run is its own."""
FLUSH_S = 30.0
"""How long the end of a job waits for a server that is away."""
HASTY_FLUSH_S = 5.0
"""The same where the job was stopped: whoever stops it may not wait for longer."""
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own (7 tries, 120 s) keep a job waiting for minutes; the outbox tries again anyway.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
UPLOAD_TIMEOUT_S = 600
"""The answer to a file of gigabytes comes when the server has stored it."""
ALIAS = "newest"  # MLflow keeps "latest" to itself
AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}

_outboxes: dict[tuple[int, str], Outbox] = {}
"""By process, because a fork inherits no thread, and server."""


@dataclass(frozen=True)
class Tracker:
    """One MLflow run that any process may log to; travels to workers as two strings.

    No method waits for the server, and none fails because of it: `pipeline.outbox` sends, keeps what a server that is
    away cannot take, and warns. Only `flush`, `finish` and `register` take time.
    """

    uri: str
    run_id: str

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Logs numbers at a step."""
        numbers = {_legal(key): float(value) for key, value in values.items()}
        self._outbox().put(Point(self.run_id, numbers, int(time.time() * 1000), step))

    def picture(self, name: str, picture: np.ndarray) -> None:
        """Logs (H, W, 3) uint8 as an artifact, e.g. "samples/0010000.png"."""
        own = np.array(picture)  # the caller may go on to write into it
        self._post(lambda client: client.log_image(self.run_id, own, artifact_file=name), own.nbytes)

    def artifact(self, path: str | Path) -> None:
        """Logs a file as it is when it is sent."""
        self._post(lambda client: client.log_artifact(self.run_id, str(path)))

    def text(self, name: str, text: str) -> None:
        """Logs a text as a file."""
        self._post(lambda client: client.log_text(self.run_id, text, name), len(text))

    def parameters(self, values: dict[str, Any]) -> None:
        """Logs a nested config as flat `a.b` parameters; keys that are there already keep their values."""
        wanted = {_legal(key): str(value)[:500] for key, value in flat(values).items()}

        def send(client: Any) -> None:
            from mlflow.entities import Param

            known = client.get_run(self.run_id).data.params
            new = [Param(key, value) for key, value in wanted.items() if key not in known]
            for start in range(0, len(new), 100):
                client.log_batch(self.run_id, params=new[start : start + 100])

        self._post(send)

    def tags(self, values: Mapping[str, str]) -> None:
        """Sets tags; the latest value of each stays."""
        wanted = {_legal(key): str(value)[:5000] for key, value in values.items()}

        def send(client: Any) -> None:
            from mlflow.entities import RunTag

            client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in wanted.items()])

        self._post(send)

    def inputs(self, sets: Mapping[str, Sequence[DataDigest]]) -> None:
        """Logs what a run reads, by purpose ("training", "validation"): as MLflow's dataset inputs, and the digests as
        parameters `data.<purpose>`."""
        self._post(lambda client: client.log_inputs(self.run_id, _dataset_inputs(sets)))
        self.parameters({"data": {purpose: " ".join(one.digest for one in some) for purpose, some in sets.items()}})

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Waits until all that this process has logged is sent; returns whether it is. For the end of a process, whose
        thread ends with it."""
        if left := self._outbox().flush(timeout_s):
            log.warning("MLflow has not taken %d entries; they are lost if this process ends before it answers", left)
        return not left

    def finish(self, status: str) -> None:
        """Ends the MLflow run as FINISHED, FAILED or KILLED, and flushes."""
        self._post(lambda client: client.set_terminated(self.run_id, status))
        self.flush(HASTY_FLUSH_S if status == "KILLED" else FLUSH_S)

    def register(
        self, folder: str | Path, name: str, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> str | None:
        """Makes a folder of weights the newest version of the registered model `name`; waits for uploads.

        The version points to a folder on a store, and one of this machine where MLflow's database is here too; a server
        takes no paths of others, so such a folder is uploaded into the run's artifacts. A version of this run with the
        same tag `digest` is not made twice.

        Args:
            folder: a finished bundle, or any folder.
            name: of the model; it is made where it is not there.
            metrics: scores, which become tags "score.<name>".
            tags: of the version, e.g. digest, guidance, label space.

        Returns:
            The version's number; None where MLflow refused, which is a warning.
        """
        tags = {**tags, **{f"score.{key}": f"{value:.6g}" for key, value in metrics.items()}}
        try:
            with _patience():
                version = _register(_client(self.uri), self, str(folder), name, tags)
        except Exception as error:  # of MLflow, its stores and their libraries: weights are made, that is what counts
            log.warning("MLflow did not register %s as %s, the run goes on: %s", folder, name, _shown(error))
            return None
        log.info("registered as model %s, version %s", name, version)
        return version

    def _post(self, send: Callable[[Any], object], num_bytes: int = 0) -> None:
        def deliver() -> None:
            client = _client(self.uri)
            with _answering():
                send(client)

        self._outbox().put(Parcel(deliver, num_bytes))

    def _outbox(self) -> Outbox:
        key = (os.getpid(), self.uri)
        if key not in _outboxes:
            _outboxes.setdefault(key, Outbox(f"MLflow at {_where(self.uri)}", lambda points: _send(self.uri, points)))
        return _outboxes[key]


def open_tracker(config: RunConfig, folder: Path, job: str) -> Tracker:
    """The MLflow run of a run's folder, found or new.

    Raises:
        ConfigError: MLflow does not answer, and the folder knows of no MLflow run to go on with.
    """
    _set_defaults()
    from mlflow.exceptions import MlflowException

    uri = config.mlflow_uri
    known_by = {"server": _where(uri), "experiment": config.experiment}
    known = _known_run(folder)
    try:
        with _answering():
            tracker = Tracker(uri, _find_or_create(_client(uri), config, folder, job))
        if known != {**known_by, "run_id": tracker.run_id}:
            write_bytes(f"{folder}/{KNOWN_RUN}", json.dumps({**known_by, "run_id": tracker.run_id}).encode())
    except (AwayError, MlflowException) as error:
        if not isinstance(error, AwayError) or not known_by.items() <= known.items():
            raise ConfigError(
                f"MLflow at {_where(uri)} does not answer: {_shown(error)}; check tracking_uri"
            ) from error
        tracker = Tracker(uri, known["run_id"])
        log.warning("MLflow at %s does not answer; the run goes on without: %s", _where(uri), _shown(error))
    tracker._post(lambda client: client.update_run(tracker.run_id, status="RUNNING"))
    tracker.tags(code_tags())
    return tracker


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries -> one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def _find_or_create(client: Any, config: RunConfig, folder: Path, job: str) -> str:
    """Id of the MLflow run whose tag is `folder`."""
    uri = config.mlflow_uri
    database = Path(uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts" if _is_database_here(uri) else None
    experiment = client.get_experiment_by_name(config.experiment)
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(config.experiment, artifact_location=database and database.as_uri())
    )
    found = client.search_runs([experiment_id], f"tags.folder = '{folder}'", max_results=1)
    if found:
        return found[0].info.run_id
    tags = {"folder": str(folder), "job": job}
    return client.create_run(experiment_id, run_name=config.run, tags=tags).info.run_id


def _known_run(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads(read_bytes(f"{folder}/{KNOWN_RUN}")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _register(client: Any, tracker: Tracker, folder: str, name: str, tags: dict[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    name, run_id = re.sub(r"[/:]", "-", name), tracker.run_id
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if tags.get("digest") and version.tags.get("digest") == tags["digest"]:
            return str(version.version)
    if "://" in folder:
        source = folder
    elif _is_database_here(tracker.uri):
        source = Path(folder).absolute().as_uri()
    else:
        inside = f"bundles/{tags.get('digest') or name}"  # not one place for all versions
        client.log_artifacts(run_id, folder, artifact_path=inside)
        source = f"{client.get_run(run_id).info.artifact_uri}/{inside}"
    made = client.create_model_version(name, source, run_id, tags=tags)
    client.set_registered_model_alias(name, ALIAS, made.version)
    return str(made.version)


def _dataset_inputs(sets: Mapping[str, Sequence[DataDigest]]) -> list[Any]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for purpose, digests in sets.items():
        for one in digests:
            facts = {"num_shards": one.num_shards, "num_bytes": one.num_bytes, "encoders": one.encoders}
            source = json.dumps({"uri": one.folder})
            dataset = Dataset(Path(one.folder).name, one.digest, "shards", source, profile=json.dumps(facts))
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", purpose)]))
    return inputs


def _send(uri: str, points: list[Point]) -> None:
    client = _client(uri)
    from mlflow.entities import Metric

    metrics = [Metric(key, value, one.time_ms, one.step) for one in points for key, value in one.values.items()]
    with _answering():
        client.log_batch(points[0].run_id, metrics)


def _set_defaults() -> None:
    """To be called before MLflow is imported, which is when it takes some of them."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def _client(uri: str) -> Any:
    _set_defaults()
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # after the import, which sets them
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(uri, registry_uri=uri)


@contextmanager
def _patience() -> Iterator[None]:
    """Long waits for answers, where it is not the user who has set how long."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name, "")
    try:
        if before == DEFAULTS[name]:
            os.environ[name] = str(UPLOAD_TIMEOUT_S)
        yield
    finally:
        os.environ[name] = before or DEFAULTS[name]


@contextmanager
def _answering() -> Iterator[None]:
    """Turns what passes of itself (no connection, a server in trouble) into AwayError; refusals stay what they are."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in AWAY:
            raise AwayError(_shown(error)) from error
        raise
    except OSError as error:  # those of HTTP libraries have no number, those of files have one
        status = getattr(getattr(error, "response", None), "status_code", 500)
        if isinstance(error, ConnectionError | TimeoutError) or (error.errno is None and status >= 500):
            raise AwayError(_shown(error)) from error
        raise


def _is_database_here(uri: str) -> bool:
    return uri.startswith("sqlite:")


def _where(uri: str) -> str:
    return "its address" if holds_credentials(uri) else uri


def _shown(error: Exception) -> str:
    """An error in one line, without the credentials that an address in it may hold."""
    return re.sub(r"://[^@/\s]*@", "://", " ".join(str(error).split()))[:500]


def _legal(key: str) -> str:
    """MLflow refuses other characters in names."""
    return re.sub(r"[^\w./ -]", "_", key)
