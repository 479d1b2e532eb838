"""The MLflow server or database: the only place that imports MLflow."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.base.config import holds_credentials
from pipeline.base.errors import ConfigError
from pipeline.runs.config import CONFIG, RunConfig
from pipeline.runs.outbox import MAX_NUMBERS, AwayError, Point
from pipeline.storage.files import is_file, is_local
from pipeline.tables.digest import DataDigest

log = logging.getLogger("jodiffusion")

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
LONGEST_NAME, LONGEST_PARAMETER, LONGEST_TAG = 250, 6_000, 8_000
"""Characters that MLflow takes."""
EARLIER_LONGEST_PARAMETER = 500
"""Where earlier releases cut values, whose runs go on."""
NOT_SET = "(not set)"


def find_or_create(config: RunConfig, folder: Path, job: str, known_id: str, is_begun: bool) -> str:
    """Id of the MLflow run of a folder: the one that the folder itself knows (`known_id`), where that is still there;
    else, if it knew one or holds what was made (`is_begun`), the newest whose tag is `folder`; else, as in a new folder
    (""), a new one.

    Raises:
        AwayError: the server does not answer.
        ConfigError: MLflow refuses; what is there is no database of its, or it cannot be made.
    """
    set_defaults()
    from mlflow.exceptions import MlflowException

    try:
        with answering(), making_database(config.mlflow_uri) as client:
            return _find_or_create(client, config, folder, job, known_id, is_begun)
    except MlflowException as error:
        raise ConfigError(
            f"MLflow at {where(config.mlflow_uri)} refuses: {shown(error)}; check tracking_uri"
        ) from error


def _find_or_create(client: Any, config: RunConfig, folder: Path, job: str, known_id: str, is_begun: bool) -> str:
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment:
        experiment_id = experiment.experiment_id
    else:
        database = database_here(config.mlflow_uri)
        artifacts = (database.parent / "mlflow-artifacts").as_uri() if database else None
        experiment_id = client.create_experiment(config.experiment, artifact_location=artifacts)
    if known_id and _is_of(client, known_id, experiment_id, folder):
        return known_id
    if known_id or is_begun:  # of another server or experiment, or of the folder that this one is a copy of; or lost
        quote = "'" if '"' in str(folder) else '"'  # MLflow knows no way to escape one
        found = client.search_runs([experiment_id], f"tags.folder = {quote}{folder}{quote}", max_results=1)
        if found:
            if not known_id:
                log.info("%s does not say which MLflow run is its own; the newest of this folder goes on", folder)
            return found[0].info.run_id
    tags = {"folder": str(folder), "job": job}
    return client.create_run(experiment_id, run_name=config.run, tags=tags).info.run_id


def _is_of(client: Any, run_id: str, experiment_id: str, folder: Path) -> bool:
    """Whether an MLflow run is there, in an experiment, and that of a folder, which may have been moved since."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in AWAY:
            raise
        return False
    before = run.data.tags.get("folder", str(folder))
    is_copy = before != str(folder) and (not is_local(before) or is_file(f"{before}/{CONFIG}"))
    return run.info.experiment_id == experiment_id and run.info.lifecycle_stage == "active" and not is_copy


@contextmanager
def making_database(uri: str) -> Iterator[Any]:
    """MLflow's client. A database of this machine is made first where there is none: beside its place, since one that
    was half made when its job was stopped could never be opened; and by one job of several that begin at once."""
    database = database_here(uri)
    if not database:
        yield connect(uri)
        return
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = database.with_name(f".{database.name}.lock")
        with FileLock(lock):
            if not database.exists():
                draft = database.with_name(f".{database.name}.draft")
                _remove(draft)  # what a killed job has left
                try:
                    connect(f"sqlite:///{draft}")
                    os.replace(draft, database)
                finally:
                    _remove(draft)
            _try_out(database)
            client = connect(uri)
        yield client
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "sqlalchemy" and not isinstance(error, OSError | sqlite3.Error):
            raise
        raise ConfigError(out_of_reach(uri, error)) from error


def out_of_reach(uri: str, error: Exception) -> str:
    """What a user reads where MLflow cannot be used at all."""
    if database := database_here(uri):
        return (
            f"{database}: MLflow cannot use this database: {shown(error)}. Free the disk or correct access to it; if "
            "it is damaged or something else, move it away, or name another one with tracking_uri"
        )
    return f"MLflow at {where(uri)} does not answer: {shown(error)}; check tracking_uri"


def _remove(draft: Path) -> None:
    """Removes a database that was half made, with the journals that SQLite keeps beside it."""
    for left in draft.parent.glob(f"{draft.name}*"):
        left.unlink(missing_ok=True)


def _try_out(database: Path) -> None:
    """Raises what SQLite says of a file that is no database or cannot be opened: MLflow would try for minutes."""
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("SELECT count(*) FROM sqlite_master")


def register_version(uri: str, run_id: str, folder: str, name: str, tags: Mapping[str, str]) -> str:
    """Makes a folder of weights a version of a registered model; returns its number, as `Tracker.register` says."""
    from mlflow.exceptions import MlflowException

    client, name = connect(uri), re.sub(r"[/:]", "-", name)
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
    elif database_here(uri):
        source = Path(folder).absolute().as_uri()
    else:
        inside = f"bundles/{tags.get('digest') or name}"  # not one place for all versions
        client.log_artifacts(run_id, folder, artifact_path=inside)
        source = f"{client.get_run(run_id).info.artifact_uri}/{inside}"
    made = client.create_model_version(name, source, run_id, tags=tags)
    client.set_registered_model_alias(name, ALIAS, made.version)
    return str(made.version)


def dataset_inputs(sets: Mapping[str, Sequence[DataDigest]]) -> list[Any]:
    """MLflow's form of what a run reads, by purpose."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for purpose, digests in sets.items():
        for one in digests:
            facts = {"num_shards": one.num_shards, "num_bytes": one.num_bytes, "encoders": one.encoders}
            source = json.dumps({"uri": one.folder})
            dataset = Dataset(Path(one.folder).name, one.digest, "shards", source, profile=json.dumps(facts))
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", purpose)]))
    return inputs


def send_points(uri: str, points: list[Point]) -> None:
    """Logs points of one run."""
    client = connect(uri)
    from mlflow.entities import Metric

    metrics = [Metric(key, value, one.time_ms, one.step) for one in points for key, value in one.values.items()]
    with answering():
        _log_all(client, points[0].run_id, "metrics", metrics, MAX_NUMBERS)


def _log_all(client: Any, run_id: str, kind: str, some: Sequence[Any], most: int) -> None:
    """Logs metrics, params or tags, `most` at once. Those of a batch that is refused are sent again name by name, so
    that none is lost with another; raises the last refusal."""
    from mlflow.exceptions import MlflowException

    refused = None
    for start in range(0, len(some), most):
        batch = some[start : start + most]
        try:
            client.log_batch(run_id, **{kind: batch})
        except MlflowException as error:
            if error.error_code in AWAY:
                raise
            refused = error
            names = dict.fromkeys(one.key for one in batch)
            for name in names if len(names) > 1 else ():
                try:
                    client.log_batch(run_id, **{kind: [one for one in batch if one.key == name]})
                except MlflowException as alone:
                    if alone.error_code in AWAY:
                        raise
                    refused = alone
    if refused:
        raise refused


def set_defaults() -> None:
    """To be called before MLflow is imported, which is when it takes some of them."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def connect(uri: str) -> Any:
    """MLflow's client."""
    set_defaults()
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # after the import, which sets them
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # logs what it raises, with its SQL
    return MlflowClient(uri, registry_uri=uri)


@contextmanager
def patience() -> Iterator[None]:
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
def answering() -> Iterator[None]:
    """Turns what passes of itself (no connection, a server in trouble) into AwayError; refusals stay what they are."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in AWAY:
            raise AwayError(shown(error)) from error
        raise
    except OSError as error:  # those of HTTP libraries have no number, those of files have one
        status = getattr(getattr(error, "response", None), "status_code", 500)
        if isinstance(error, ConnectionError | TimeoutError) or (error.errno is None and status >= 500):
            raise AwayError(shown(error)) from error
        raise


def log_parameters(client: Any, run_id: str, values: Mapping[str, str], whole: bool) -> None:
    """Logs those that the run does not have yet. MLflow never changes one: what is another now becomes a tag
    `config.<name>`, and is warned of. `whole`: these are all but `data.*`, and others are not set any more."""
    from mlflow.entities import Param

    data = client.get_run(run_id).data
    gone = [key for key in data.params if key not in values and not key.startswith("data.")] if whole else []
    latest = {_tag_of(key): (key, value) for key, value in {**values, **dict.fromkeys(gone, NOT_SET)}.items()}
    changed = {
        tag: value
        for tag, (key, value) in latest.items()
        if key in data.params and not _is_same(data.tags.get(tag, data.params[key]), value)
    }
    if changed:
        set_tags(client, run_id, changed)
        log.warning(
            "MLflow keeps the parameters that a run began with; what is another now is told by its tags: %s",
            ", ".join(f"{tag} = {shortened(value, 100)}" for tag, value in sorted(changed.items())),
        )
    new = [Param(key, value) for key, value in values.items() if key not in data.params]
    _log_all(client, run_id, "params", new, 100)


def _tag_of(key: str) -> str:
    """The tag of a parameter, whose name MLflow takes already: `legal` once more would put a digest behind some."""
    return tag if len(tag := f"config.{key}") <= LONGEST_NAME else legal(tag)


def _is_same(before: str, value: str) -> bool:
    return before == value or (len(before) == EARLIER_LONGEST_PARAMETER and value.startswith(before))


def set_tags(client: Any, run_id: str, values: Mapping[str, str]) -> None:
    """Sets tags; the latest value of each stays."""
    from mlflow.entities import RunTag

    _log_all(client, run_id, "tags", [RunTag(key, value) for key, value in values.items()], 100)


def database_here(uri: str) -> Path | None:
    """MLflow's database where it is a file of this machine."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def where(uri: str) -> str:
    """An address to show."""
    return "its address" if holds_credentials(uri) else uri


def shown(error: Exception) -> str:
    """An error in one line, without the credentials that an address in it may hold and the SQL that failed."""
    text = re.sub(r"://[^@/\s]*@", "://", " ".join(str(error).split()))
    if found := re.search(r"\(sqlite3\.\w+\) (.*?)(?= \[SQL: | \(Background on |$)", text):
        text = found[1]
    return text[:500]


def legal(key: str) -> str:
    """A name that MLflow takes. Where it refuses signs, the length, or the path that it makes of the name, these are
    replaced, and a digest is put behind, since other names may become the same; not for "a + b" and "a, b"."""
    key = unicodedata.normalize("NFC", key)
    usual = re.sub(r"(?<=\w) \+ (?=\w)", " _ ", re.sub(r"(?<=\w), (?=\w)", "_ ", key))
    parts = re.sub(r"[^\w./ -]", "_", usual).split("/")
    made = re.sub(r"^\.\.[./]*", "", "/".join(part for part in parts if part not in ("", ".", "..")))
    if made and made == usual and len(made) <= LONGEST_NAME and "_ " not in key:
        return made
    digest = blake2b(key.encode(errors="surrogatepass"), digest_size=3).hexdigest()
    return f"{made[: LONGEST_NAME - len(digest) - 1]}-{digest}"


def shortened(value: str, longest: int) -> str:
    """A text of so many characters at most; one that was cut ends in "..."."""
    return value if len(value) <= longest else f"{value[: longest - 3]}..."
