"""Submission: a job of this project on a Ray cluster, from a checkout on another machine."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from ray.job_submission import JobStatus, JobSubmissionClient

from pipeline.base.config import holds_credentials
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import Sent, as_given, is_seen_by_all, places
from pipeline.runs.config import RunConfig
from pipeline.runs.provenance import REVISION, revision
from pipeline.storage.files import describe
from pipeline.tables.ids import text_digest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("models", "pipeline", "jobs", "pyproject.toml")
MAX_SENT_BYTES = 100 * 2**20
"""What the dashboard of a cluster takes."""
STOP_WAIT_S = 600
"""How long a job that is stopped may take to save what it has."""
OF_THE_CLUSTER = ("ray", "torch")
"""Packages that the machines bring: their versions go with the cluster's and the driver's of the GPU."""


@dataclass(frozen=True)
class Submission:
    """What is sent.

    Attributes:
        job: module name under `jobs`.
        config: of the job; its run name is the submission id.
        arguments: of the job, as on its own command line.
        install: installs pinned dependencies on the cluster; without, its machines have them.
    """

    job: str
    config: RunConfig
    arguments: Sequence[str]
    install: bool

    @property
    def entrypoint(self) -> str:
        """The command that the cluster runs, in the folder that the checkout becomes there."""
        path = [str(path.relative_to(ROOT)) for path in (self._config_file(),) if path]
        return shlex.join(["python", "-m", f"jobs.{self.job}", *path, *self.arguments[len(path) :]])

    def check(self) -> None:
        """Refuses what the cluster could not find, or would lose.

        Raises:
            ConfigError: says which key, and what to give.
        """
        runs = self.config.runs
        if not _is_seen(runs):
            raise ConfigError(
                f"runs is {as_given(runs)!r}, which on the cluster is a folder that disappears with the job; give one "
                "that all its machines see: a URL (s3://bucket/runs) or an absolute path (/shared/runs)"
            )
        for key, place in places(self.config):
            if not _is_seen(place) and not isinstance(place, Sent):
                raise ConfigError(
                    f"{key} is {place.given!r}, which is not sent; give a URL, or a path that the cluster has"
                )
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if holds_credentials(uri):
            raise ConfigError(
                "MLFLOW_TRACKING_URI holds a password, which everybody who sees the cluster's jobs would read; give "
                "its machines MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        if not uri and not self.config.tracking_uri and "://" in runs:
            log.warning("submit: MLFLOW_TRACKING_URI is not set: metrics are lost when the cluster goes")
        file = self._config_file()
        if file and not file.is_relative_to(ROOT / "jobs"):
            raise ConfigError(f"{file}: only configs under {ROOT}/jobs are sent; copy it to {ROOT}/jobs/configs")
        bundle = self._bundle()
        if bundle and not bundle.is_dir():
            raise ConfigError(f"{bundle}: no such bundle; correct the key `bundle`")
        sizes = {path: _bytes_below(ROOT / path) for path in self._sent()}
        if sum(sizes.values()) > MAX_SENT_BYTES:
            largest = max(sizes, key=lambda path: sizes[path])
            raise ConfigError(
                f"{sum(sizes.values()) / 1e6:.0f} MB would go with the job, but a cluster's dashboard takes "
                f"{MAX_SENT_BYTES / 1e6:.0f}; the most, {sizes[largest] / 1e6:.0f} MB, lies in {ROOT / largest}: put "
                "bundles on a store and give their URL, and keep data outside of the checkout"
            )

    @property
    def name(self) -> str:
        """Of the job on the cluster: the run's, without what a job's name must not hold."""
        name = re.sub(r"[^\w.-]", "-", self.config.run)
        return name if name == self.config.run else f"{name}-{text_digest(self.config.run)[:6]}"

    def runtime_env(self) -> dict[str, Any]:
        """Code without runs and data, its commit, pinned dependencies, and where MLflow is."""
        environment: dict[str, Any] = {"working_dir": str(ROOT), "excludes": excludes(ROOT, self._sent())}
        # Ray kills a stopped job three seconds after it was asked to end: too soon to save a large network.
        environment["env_vars"] = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            environment["env_vars"]["MLFLOW_TRACKING_URI"] = uri
        if commit := revision():  # no history is sent
            environment["env_vars"][REVISION] = commit
        if self.install:
            environment["pip"] = {"packages": pinned(ROOT), "pip_check": False}
        return environment

    def _config_file(self) -> Path | None:
        """The YAML file, where one is given."""
        return Path(self.arguments[0]).resolve() if self.arguments and self.arguments[0][0] != "-" else None

    def _sent(self) -> set[str]:
        """What goes along, below the checkout."""
        bundle = self._bundle()
        return {*SHIPPED, *([str(bundle.relative_to(ROOT))] if bundle else [])}

    def _bundle(self) -> Path | None:
        """The bundle, where it is a folder of the checkout."""
        found = [place for _, place in places(self.config) if isinstance(place, Sent) and not _is_seen(place)]
        return ROOT / found[0].given if found else None


def _is_seen(place: str) -> bool:
    """Whether every machine of a cluster may find a place that was given so."""
    return is_seen_by_all(as_given(place))


def _bytes_below(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and "__pycache__" not in file.parts)


def excludes(root: Path, sent: set[str]) -> list[str]:
    """Patterns, as in .gitignore, of everything under `root` but the paths in `sent` (with their parents)."""
    patterns = []
    for path in sorted(root.iterdir()):
        inside = {name.split("/", 1)[1] for name in sent if name.startswith(f"{path.name}/")}
        if path.name in sent:
            continue
        if inside and path.is_dir():
            patterns += [f"/{path.name}{pattern}" for pattern in excludes(path, inside)]
        else:
            patterns.append(f"/{path.name}")
    return [*patterns, "__pycache__"] if root == ROOT else patterns


def pinned(root: Path) -> list[str]:
    """The dependencies of pyproject.toml at the versions of constraints.txt."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    versions = dict(
        line.strip().lower().replace("_", "-").split("==")
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    needed = [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"]["s3"]]]
    return [
        f"{one.name}=={versions[name]}" if (name := one.name.lower().replace("_", "-")) in versions else str(one)
        for one in needed
        if one.name not in OF_THE_CLUSTER
    ]


def submit(submission: Submission, address: str, wait: bool, write: Callable[[str], object] = sys.stdout.write) -> int:
    """Starts a job, or finds it running, and shows its log; returns the exit code for the terminal.

    Raises:
        ConfigError: the cluster cannot be reached, or the job cannot run there.
    """
    submission.check()
    for quiet in ("ray._private.runtime_env", "ray.dashboard.modules"):  # a line per file that is not sent
        logging.getLogger(quiet).setLevel(logging.ERROR)
    name = submission.name
    try:
        client = JobSubmissionClient(address or None)
        jobs = {job.submission_id: job for job in client.list_jobs()}
    except Exception as error:  # of its HTTP library
        raise ConfigError(
            f"no Ray cluster answers at {address or 'RAY_API_SERVER_ADDRESS'}: {describe(error)}. Open a tunnel to its "
            "dashboard (ray dashboard cluster.yaml), give --address http://127.0.0.1:8265, and set RAY_AUTH_MODE=token "
            "where the cluster asks for a token"
        ) from error
    job = jobs.get(name)
    if job and not job.status.is_terminal():
        if job.entrypoint != submission.entrypoint:
            raise ConfigError(
                f"{name} runs with other arguments:\n  {job.entrypoint}\nStop it first (ray job stop {name}), or give "
                "the same ones to follow it"
            )
        log.info("submit: %s is on its way already; this is its log", name)
    else:
        if job:
            client.delete_job(name)  # what the run made is in its folder; Ray goes on with the job's log
        client.submit_job(entrypoint=submission.entrypoint, runtime_env=submission.runtime_env(), submission_id=name)
        log.info("submit: %s runs %s", name, submission.entrypoint)
    if not wait:
        log.info("submit: the same command follows its log; `ray job stop %s` stops it", name)
        return 0
    try:
        status = asyncio.run(follow(client, name, write))
    except KeyboardInterrupt:
        log.info("submit: the job goes on; the same command follows it again, `ray job stop %s` stops it", name)
        return 130
    except Exception as error:  # of its HTTP library
        log.info("submit: the connection was lost (%s); the job goes on, the same command follows it", describe(error))
        return 1
    log.info("submit: %s %s", name, status.lower())
    if status != JobStatus.SUCCEEDED:
        log.info("submit: the same command goes on where it stopped")
    return 0 if status == JobStatus.SUCCEEDED else 1


async def follow(client: JobSubmissionClient, name: str, write: Callable[[str], object]) -> JobStatus:
    """Copies a job's log to the terminal until it ends."""
    async for lines in client.tail_job_logs(name):
        write(lines)
    while not (status := client.get_job_status(name)).is_terminal():
        time.sleep(0.2)
    return status
