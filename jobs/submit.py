"""Run a job on a Ray cluster: python -m jobs.submit [--address URL] generate CONFIG.yaml [--key value ...]."""

from __future__ import annotations

import argparse
import importlib
import sys
import typing

from jobs import ending
from jobs.__main__ import known_job
from pipeline.base.command_line import parse
from pipeline.base.errors import ConfigError
from pipeline.base.log import set_up_logging
from pipeline.cluster.submission import Submission, submit
from pipeline.runs.config import RunConfig


def main() -> int:
    """Checks everything that can be checked here before anything is sent."""
    parser = argparse.ArgumentParser(prog="python -m jobs.submit", description=__doc__)
    parser.add_argument("--address", default="", help="of the cluster's dashboard; default: RAY_API_SERVER_ADDRESS")
    parser.add_argument("--no-wait", action="store_true", help="do not follow the log")
    parser.add_argument("--install", action="store_true", help="install pinned dependencies on the cluster's machines")
    parser.add_argument("job", help="name of the job")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its config and overrides, as without a cluster")
    options = parser.parse_args()
    set_up_logging()
    name = known_job(options.job)
    job = importlib.import_module(f"jobs.{name}")
    config = parse(typing.get_type_hints(job.main)["config"], options.arguments, program=f"python -m jobs.{name}")
    if not isinstance(config, RunConfig):
        raise ConfigError(f"{name} is no job for a cluster; it runs on this machine")
    submission = Submission(name, config, options.arguments, options.install)
    return submit(submission, options.address, wait=not options.no_wait)


if __name__ == "__main__":
    with ending():
        sys.exit(main())
