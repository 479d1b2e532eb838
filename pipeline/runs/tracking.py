"""Tracking: numbers, pictures and files of a run in MLflow. MLflow may be away: that costs numbers, never a run."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.errors import ConfigError
from pipeline.runs.config import RunConfig
from pipeline.runs.mlflow_server import (
    LONGEST_PARAMETER,
    LONGEST_TAG,
    answering,
    connect,
    dataset_inputs,
    find_or_create,
    legal,
    log_parameters,
    out_of_reach,
    patience,
    register_version,
    send_points,
    set_tags,
    shortened,
    shown,
    where,
)
from pipeline.runs.outbox import AwayError, Outbox, Parcel, Point
from pipeline.runs.provenance import code_tags
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

_outboxes: dict[tuple[int, str], Outbox] = {}
"""By process, because a fork inherits no thread, and server."""


@dataclass(frozen=True)
class Tracker:
    """One MLflow run that any process may log to; travels to workers as two strings.

    No method waits for the server, and none fails because of it: `pipeline.runs.outbox` sends, keeps what a server
    that is away cannot take, and warns. Only `flush`, `finish` and `register` take time.
    """

    uri: str
    run_id: str

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Logs numbers at a step."""
        self._put({legal(key): float(value) for key, value in values.items()}, int(time.time() * 1000), step)

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

    def parameters(self, values: dict[str, Any], *, whole: bool = False) -> None:
        """Logs a nested config as flat `a.b` parameters. Keys that are there already keep their values; the latest
        ones, where they differ, are tags `config.a.b`. `whole`: keys that are not among these are not set any more."""
        wanted = {legal(key): shortened(str(value), LONGEST_PARAMETER) for key, value in flat(values).items()}
        self._post(lambda client: log_parameters(client, self.run_id, wanted, whole))

    def tags(self, values: Mapping[str, str]) -> None:
        """Sets tags; the latest value of each stays."""
        wanted = {legal(key): shortened(str(value), LONGEST_TAG) for key, value in values.items()}
        self._post(lambda client: set_tags(client, self.run_id, wanted))

    def inputs(self, sets: Mapping[str, Sequence[DataDigest]]) -> None:
        """Logs what a run reads, by purpose ("training", "validation"): as MLflow's dataset inputs, and the digests as
        parameters `data.<purpose>`."""
        self._post(lambda client: client.log_inputs(self.run_id, dataset_inputs(sets)))
        self.parameters({"data": {purpose: " ".join(one.digest for one in some) for purpose, some in sets.items()}})

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Waits until all that this process has logged is sent; returns whether it is. For the end of a process, whose
        thread ends with it."""
        if left := self._outbox().flush(timeout_s):
            log.warning("%d entries have not reached MLflow; they are lost if the job ends before it answers", left)
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
            with patience():
                version = register_version(self.uri, self.run_id, str(folder), name, tags)
        except Exception as error:  # of MLflow, its stores and their libraries: weights are made, that is what counts
            log.warning("MLflow did not register %s as %s, the run goes on: %s", folder, name, shown(error))
            return None
        log.info("registered as model %s, version %s", name, version)
        return version

    def if_refused(self, act: Callable[[], object]) -> None:
        """Calls `act` when it turns out that MLflow cannot be used, which is known of an open tracker."""

    def check(self) -> None:
        """Raises why MLflow cannot be used, as far as that is known."""

    def _put(self, numbers: dict[str, float], time_ms: int, step: int) -> None:
        self._outbox().put(Point(self.run_id, numbers, time_ms, step))

    def _post(self, send: Callable[[Any], object], num_bytes: int = 0) -> None:
        def deliver() -> None:
            client = connect(self.uri)
            with answering():
                send(client)

        self._outbox().put(Parcel(deliver, num_bytes))

    def _outbox(self) -> Outbox:
        key = (os.getpid(), self.uri)
        if key not in _outboxes:
            name = f"MLflow at {where(self.uri)}"
            _outboxes.setdefault(key, Outbox(name, lambda points: send_points(self.uri, points)))
        return _outboxes[key]


class LateTracker(Tracker):
    """A tracker whose MLflow run is looked for beside the caller, since to import MLflow and to make its database takes
    seconds. What is logged meanwhile is sent as soon as it is found.

    Whoever works with it asks by `if_refused` and `check` whether MLflow can be used at all; `finish` and a copy in
    another process wait for it.
    """

    _found: Future[str]
    _thread: threading.Thread

    def __init__(self, uri: str, find: Callable[[], Tracker]) -> None:
        found: Future[str] = Future()

        def look() -> None:
            try:
                run_id = find().run_id
            except Exception as error:
                found.set_exception(error)
            else:
                found.set_result(run_id)

        thread = threading.Thread(target=look, name="mlflow", daemon=True)
        for name, value in (("uri", uri), ("_found", found), ("_thread", thread)):
            object.__setattr__(self, name, value)
        thread.start()

    @property
    def run_id(self) -> str:
        """Waits for it."""
        return self._found.result()

    def __reduce__(self) -> tuple[Any, ...]:
        return Tracker, (self.uri, self.run_id)

    def if_refused(self, act: Callable[[], object]) -> None:
        self._found.add_done_callback(lambda found: act() if found.exception() else None)

    def check(self) -> None:
        if self._found.done():
            self._found.result()

    def finish(self, status: str) -> None:
        self._thread.join(HASTY_FLUSH_S if status == "KILLED" else None)  # it also posts what was logged before
        if status == "FINISHED":
            self.check()
        super().finish(status)

    def _put(self, numbers: dict[str, float], time_ms: int, step: int) -> None:
        self._then(partial(super()._put, numbers, time_ms, step))

    def _post(self, send: Callable[[Any], object], num_bytes: int = 0) -> None:
        self._then(partial(super()._post, send, num_bytes))

    def _then(self, act: Callable[[], object]) -> None:
        self._found.add_done_callback(lambda found: None if found.exception() else act())


def open_tracker(config: RunConfig, folder: Path, job: str, is_begun: bool) -> Tracker:
    """The MLflow run that a run's folder knows by its file `mlflow.json`; in a folder without, one that MLflow knows of
    it where something was made there (`is_begun`), else a new one.

    Raises:
        ConfigError: MLflow does not answer, and the folder knows of no MLflow run to go on with.
    """
    uri = config.mlflow_uri
    known_by = {"server": where(uri), "experiment": config.experiment}
    known = _known_run(folder)
    try:
        tracker = Tracker(uri, find_or_create(config, folder, job, known.get("run_id", ""), is_begun))
        if known != {**known_by, "run_id": tracker.run_id}:
            write_bytes(f"{folder}/{KNOWN_RUN}", json.dumps({**known_by, "run_id": tracker.run_id}).encode())
    except AwayError as error:
        if not known_by.items() <= known.items():
            raise ConfigError(out_of_reach(uri, error)) from error
        tracker = Tracker(uri, known["run_id"])
        log.warning("MLflow at %s does not answer; the run goes on without: %s", where(uri), shown(error))
    tracker._post(lambda client: client.update_run(tracker.run_id, status="RUNNING"))
    tracker.tags({**code_tags(), "folder": str(folder)})
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


def _known_run(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads(read_bytes(f"{folder}/{KNOWN_RUN}")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}
