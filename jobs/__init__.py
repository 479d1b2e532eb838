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
            "Failed to convert column '",  # columns of lists, which Ray then keeps in another way
        )
    ),
)
# Each training tells its own progress, though the lines of several differ in numbers alone.
os.environ.setdefault("RAY_DEDUP_LOGS_ALLOW_REGEX", r" of \d+ examples  ")

if os.environ.get("RAY_ADDRESS"):  # what listens there may be no Ray: told in a minute, where Ray tries for many
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    os.environ.setdefault("RAY_py_gcs_connect_timeout_s", "5")

C = TypeVar("C", bound="Config")

STOPPED = "\nstopped; run the same command again to go on\n"

RENAMED = {"prompts": "plan_prompts", "train_segmenter": "evaluate", "train_text": "train_clip"}
"""Jobs by the names that they had; a file of each old name says so to whoever starts it."""


def renamed(name: str) -> NoReturn:
    """Says what a job is called now, and exits with 2."""
    sys.stderr.write(f"error: the job {name} is called {RENAMED[name]} now: python -m jobs.{RENAMED[name]}\n")
    sys.exit(2)


def command(main: Callable[[C], object], config_type: type[C]) -> None:
    """Runs one job from the command line, with the exit codes of `ending`."""
    from pipeline.base.command_line import parse  # not above: the list of jobs must not wait for pydantic
    from pipeline.base.log import set_up_logging

    set_up_logging()
    with ending():
        config = parse(config_type, program=f"python -m {main.__globals__['__spec__'].name}")
        config.check_inputs()  # before Ray starts, which takes longer than to find a typo
        main(config)


@contextmanager
def ending() -> Iterator[None]:
    """Ends the program as users and schedulers expect it: a mistake of the user's in the body in one message and exit
    code 2, what the cluster or the machine did in one and 1, SIGINT and SIGTERM in 130."""
    _on_signals(_interrupt)  # SIGTERM is what stops jobs and pods: it should end as well as Ctrl-C does
    try:
        yield
    except KeyboardInterrupt:
        _exit(STOPPED, 130)
    except Exception as error:
        told = _told(error)
        if not told:  # a mistake of ours: with its trace
            raise
        _exit(*told)
    finally:
        _on_signals(_leave)


def _told(error: Exception) -> tuple[str, int] | None:
    """What a user reads of an error, and the exit code; None for a mistake of ours."""
    # Here and not above: the list of jobs must not wait for torch.
    from models.weights import WeightsError
    from pipeline.base.errors import ClusterError, JoDiffusionError, Stopped

    if isinstance(error, Stopped):
        return f"\n{error}; run the same command again to go on\n", 130
    if isinstance(error, JoDiffusionError | WeightsError):
        return f"error: {error}\n", 1 if isinstance(error, ClusterError) else 2
    if type(error).__module__ == "ray.exceptions" and not hasattr(error, "cause"):
        from pipeline.cluster.tasks import in_words

        return f"error: {in_words(error)}. Run the same command again\n", 1
    return None


def _exit(text: str, code: int) -> NoReturn:
    sys.stderr.write(text)
    sys.exit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _leave(*_: object) -> None:
    """Ends the process where nothing has begun, or all is done: an exception in the middle of an import, or of what
    Python does last, would be a trace."""
    os.write(sys.stderr.fileno(), STOPPED.encode())
    os._exit(130)


def _on_signals(handler: Callable[..., object]) -> None:
    """Handles SIGINT and SIGTERM from now on, where a job is the program; a job in the background without SIGINT stays
    so."""
    if not IS_PROGRAM:
        return
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def _is_program() -> bool:
    """Whether a job is what was started, as `python -m jobs.NAME` or `jodiffusion NAME`; Ray's workers and tests import
    jobs too."""
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] if "-m" in sys.orig_argv else []
    return bool(module and module[0].partition(".")[0] == "jobs") or os.path.basename(sys.argv[0]) == "jodiffusion"


def _refuse_without_docstrings() -> None:
    """Ray Data reads docstrings as it is imported, and would end in a trace where `python -OO` took them away."""
    job = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv[:-1] else ""
    if sys.flags.optimize > 1 and job.startswith("jobs."):
        sys.stderr.write("error: Ray Data needs the docstrings that -OO takes away; leave it out, or take -O\n")
        sys.exit(2)


IS_PROGRAM = _is_program()
_on_signals(_leave)
if IS_PROGRAM:
    _refuse_without_docstrings()
