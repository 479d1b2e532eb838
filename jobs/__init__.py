"""Commands: `python -m jobs` lists them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from pipeline.base.config import Config

# What Ray says of its inner life, which would drown the lines that a job prints. Ray reads it when it is imported.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX",
    "|".join(
        (
            "Failed to query Ray Train Controller",
            "of Dataset ",
            "Dataset dataset_",
            "Progress bars disabled",
            "Reporting training result",
            "Checkpoint successfully created",
            "PYTHON worker processes have been started",
            "training worker group",
            "world_rank=",
            "Setting up process group",
            "Requesting resources",
            "There are infinite retries remaining",
        )
    ),
)

C = TypeVar("C", bound="Config")

RENAMED = {"prompts": "plan_prompts", "train_segmenter": "evaluate", "train_text": "train_clip"}
"""Jobs by the names that they had; a file of each old name says so to whoever starts it."""


def renamed(name: str) -> NoReturn:
    """Says what a job is called now, and exits with 2."""
    sys.stderr.write(f"error: the job {name} is called {RENAMED[name]} now: python -m jobs.{RENAMED[name]}\n")
    sys.exit(2)


def command(main: Callable[[C], object], config_type: type[C]) -> None:
    """Runs one job from the command line, with the exit codes of `ending`."""
    from pipeline.base.command_line import parse  # not above: the list of jobs must not wait for pydantic

    with ending():
        main(parse(config_type, program=f"python -m {main.__globals__['__spec__'].name}"))


@contextmanager
def ending() -> Iterator[None]:
    """A user's mistake in the body ends in one message and exit code 2, SIGINT and SIGTERM in 130."""
    # Here and not above: the list of jobs must not wait for torch.
    from models.weights import WeightsError
    from pipeline.base.errors import JoDiffusionError, Stopped

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)  # what stops jobs and pods: it should end as well as Ctrl-C does
    try:
        yield
    except Stopped as stopped:
        sys.stderr.write(f"\n{stopped}; run the same command again to go on\n")
        sys.exit(130)
    except (JoDiffusionError, WeightsError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except Exception as error:
        if type(error).__module__ != "ray.exceptions" or hasattr(error, "cause"):  # a mistake of ours: with its trace
            raise
        sys.stderr.write(
            f"error: {str(error).splitlines()[0]}; a part of the cluster was lost. Run the same command again\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; run the same command again to go on\n")
        sys.exit(130)
