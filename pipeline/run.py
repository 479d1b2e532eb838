"""Run: a named execution. Its folder, its saved config, its MLflow run, its log."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from pipeline.config import RunConfig, holds_credentials
from pipeline.errors import ConfigError, Stopped
from pipeline.sole_driver import sole_driver
from pipeline.storage import is_local, write_bytes

log = logging.getLogger("jodiffusion")

ALWAYS_CHANGEABLE = frozenset({"runs", "experiment", "tracking_uri", "workers"})
"""Keys that say where a run is kept or how many machines work on it, but not what it makes."""


@dataclass(frozen=True)
class Tracker:
    """One MLflow run that any process may log to; travels to workers as three strings."""

    uri: str
    run_id: str

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Logs numbers at a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(_legal(key), float(value), now, step) for key, value in values.items()]
        with _losing_numbers_only():
            self._client().log_batch(self.run_id, points)

    def picture(self, name: str, picture: np.ndarray) -> None:
        """Logs (H, W, 3) uint8 as an artifact, e.g. "samples/0010000.png"."""
        with _losing_numbers_only():
            self._client().log_image(self.run_id, picture, artifact_file=name)

    def artifact(self, path: str | Path) -> None:
        """Logs a file."""
        with _losing_numbers_only():
            self._client().log_artifact(self.run_id, str(path))

    def parameters(self, values: dict[str, Any]) -> None:
        """Logs a nested config as flat `a.b` parameters; keys that are there already keep their values."""
        from mlflow.entities import Param

        with _losing_numbers_only():
            client = self._client()
            known = client.get_run(self.run_id).data.params
            new = [Param(_legal(key), str(value)[:500]) for key, value in flat(values).items()]
            new = [parameter for parameter in new if parameter.key not in known]
            for start in range(0, len(new), 100):
                client.log_batch(self.run_id, params=new[start : start + 100])

    def text(self, name: str, text: str) -> None:
        """Logs a text as a file."""
        with _losing_numbers_only():
            self._client().log_text(self.run_id, text, name)

    def finish(self, status: str) -> None:
        """Ends the MLflow run as FINISHED, FAILED or KILLED."""
        with _losing_numbers_only():
            self._client().set_terminated(self.run_id, status)

    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)


@dataclass(frozen=True)
class Run:
    """An open run."""

    folder: Path
    tracker: Tracker

    @classmethod
    @contextmanager
    def open(
        cls,
        config: RunConfig,
        job: str,
        changeable: frozenset[str] = frozenset(),
        facts: Mapping[str, str] = MappingProxyType({}),
        *,
        on_store: bool = False,
    ) -> Iterator[Run]:
        """Opens the run that `config` names, new or to go on with, for this process alone.

        Args:
            config: saved as `config.yaml` in the run's folder.
            job: name of the job; a run belongs to one.
            changeable: further keys that may differ from those that the run began with.
            facts: what the run depends on beside its config, such as the digest of a file; saved with it, and must not
                change either.
            on_store: the job can keep its run on an object store.

        Raises:
            ConfigError: the folder belongs to another job or config (prints the difference), or to a running process.
        """
        set_up_logging()
        folder = config.folder
        if not on_store and not is_local(str(folder)):
            raise ConfigError(f"runs: {job} keeps its runs in a folder that every machine sees, not yet on {folder}")
        with sole_driver(str(folder)):
            _check_and_save(folder, {"job": job, **config.dump(), **facts}, changeable | ALWAYS_CHANGEABLE)
            tracker = _open_tracker(config, folder, job)
            tracker.parameters({**config.dump(), **facts})
            try:
                yield cls(folder, tracker)
            except (KeyboardInterrupt, Stopped):
                tracker.finish("KILLED")
                raise
            except BaseException:
                tracker.finish("FAILED")
                raise
            tracker.finish("FINISHED")


def set_up_logging() -> None:
    """One plain line per message on the terminal; safe to call again."""
    if not log.handlers:
        handler = _ToStdout()
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


class _ToStdout(logging.StreamHandler[Any]):
    """Writes to what `sys.stdout` is at the moment: a live display takes its place for a while."""

    @property
    def stream(self) -> Any:
        return sys.stdout

    @stream.setter
    def stream(self, _: Any) -> None: ...


def clock(seconds: float) -> str:
    """Seconds as "m:ss", or "h:mm:ss"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries -> one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


@contextmanager
def _losing_numbers_only() -> Iterator[None]:
    """Turns trouble with MLflow into a warning: a server that restarts must not stop hours of work."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        log.warning("MLflow did not take some numbers, the run goes on: %s", error)


def _legal(key: str) -> str:
    """MLflow refuses other characters in names."""
    return re.sub(r"[^\w./ -]", "_", key)


def _has_made_nothing(folder: Path) -> bool:
    kept = (
        "shards/*.parquet",
        "errors/*.parquet",
        "checkpoints/*",
        "train/step_*",
        "weights",
        "tokenizer",
        "*.json",
    )
    return not any(next(folder.glob(pattern), None) for pattern in kept)


def _check_and_save(folder: Path, values: dict[str, Any], changeable: frozenset[str]) -> None:
    path = folder / "config.yaml"
    if path.exists() and not _has_made_nothing(folder):  # a first try that failed at once binds nobody
        before, now = flat(yaml.safe_load(path.read_text())), flat(values)
        changed = [
            f"  {key}: {before.get(key, '(not set)')} -> {now.get(key, '(not set)')}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not {key, key.split(".")[0]} & changeable
        ]
        if changed:
            raise ConfigError(
                f"{folder} was begun with another config:\n"
                + "\n".join(changed)
                + "\nTake another --run name, or undo "
                "the change to go on with this run."
            )
    write_bytes(str(path), yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def _open_tracker(config: RunConfig, folder: Path, job: str) -> Tracker:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name in ("alembic", "mlflow"):  # after the import, which sets them
        logging.getLogger(name).setLevel(logging.WARNING)
    client = MlflowClient(config.mlflow_uri)
    try:
        experiment = client.get_experiment_by_name(config.experiment)
        local = config.mlflow_uri.startswith("sqlite:")
        experiment_id = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(
                config.experiment,
                artifact_location=(
                    Path(config.mlflow_uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts"
                ).as_uri()
                if local
                else None,
            )
        )
        found = client.search_runs([experiment_id], f"tags.folder = '{folder}'", max_results=1)
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            return Tracker(config.mlflow_uri, found[0].info.run_id)
        created = client.create_run(experiment_id, run_name=config.run, tags={"folder": str(folder), "job": job})
        return Tracker(config.mlflow_uri, created.info.run_id)
    except MlflowException as error:
        where = "its address" if holds_credentials(config.mlflow_uri) else config.mlflow_uri
        raise ConfigError(f"MLflow at {where} does not answer: {error}; check tracking_uri") from error
