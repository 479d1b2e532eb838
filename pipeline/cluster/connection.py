"""The connection to Ray: the cluster that a job runs on, or a small one of its own."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray
import ray.data
from ray._private import utils
from ray.util.annotations import RayDeprecationWarning

from pipeline.base.config import Workers
from pipeline.base.errors import ClusterError, ConfigError
from pipeline.base.log import log
from pipeline.cluster.tasks import OOM_RETRIES

ROOM_CPUS = 1.5
"""What the tasks beside a pool of workers take: one that refines or decodes, one that writes."""
PROBE_S = 10.0
"""How long an address may take to answer at all."""
STUCK_S = 4 * 3600
"""When a graph in which nothing moves is given up; a large batch on a slow machine, or a cluster that grows, takes
longer than Ray's half an hour."""
SETTINGS = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Threads that wait for each other spin for some microseconds, then sleep, so that others get the cores: sleeping at
    # once costs a third of a small network's training step, spinning for long costs its neighbours.
    "GOMP_SPINCOUNT": "30000",
    # Without it glibc gives the memory of every step back to the kernel: a tenth of a training step on a CPU.
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    # Of all tasks of this driver, on its own machine or a cluster; Ray itself would start them again for ever.
    "RAY_task_oom_retries": str(OOM_RETRIES),
    # Of calls whose results nobody waits for: Ray Data's numbers, whose keeper may have been ended for memory.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}
"""Environment of Ray and of what it starts, where the user has not set it."""
ALONE = {
    # Processes that one machine has no use for: each takes a second or two to start.
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # No dashboard runs here. A helper of Ray Train asks it whether the training lives; told where it would be (nobody
    # listens there), the helper waits in peace, instead of ending with a trace that it can find none.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
}
"""The same, for Ray on this machine alone."""


def require(workers: Workers, room_cpus: float = ROOM_CPUS) -> None:
    """Checks that `workers` fit beside the tasks that read and write for them; without room for those, both would wait
    for each other for ever. A cluster that can grow is trusted to.

    Raises:
        ConfigError: says what is needed and what there is.
    """
    have = ray.cluster_resources()
    cpus, gpus = workers.num * workers.cpus + room_cpus, workers.num * workers.gpus
    if cpus <= have.get("CPU", 0) and gpus <= have.get("GPU", 0):
        return
    room = f" (with {room_cpus:g} for reading and writing)" if room_cpus else ""
    message = (
        f"{workers.num} workers with {workers.cpus:g} CPUs and {workers.gpus:g} GPUs each need {cpus:g} CPUs{room} and "
        f"{gpus:g} GPUs, but Ray has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}"
    )
    if os.environ.get("RAY_ADDRESS"):
        log.warning("%s: waiting for the cluster to grow", message)
    else:
        raise ConfigError(f"{message}; lower workers.num, workers.cpus or workers.gpus")


@contextmanager
def cluster() -> Iterator[None]:
    """Connects to the cluster of `RAY_ADDRESS` (a submitted job has one), or starts Ray on this machine.

    Nested uses share the outer connection.

    Raises:
        ClusterError: no Ray answers there, or it cannot start here.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "")
    quiet()
    try:
        with _stopping_as_before():
            if address:
                _connect(address)
            else:
                _start()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True  # a user's mistake in a stage reaches the user as it was raised
        context.execution_no_progress_timeout_s = STUCK_S
        yield
    finally:
        ray.shutdown()


def quiet() -> None:
    """Keeps what Ray says of its inner life off the terminal; what goes wrong is raised and told once."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors reach the user once, as they were raised
    # Warns that Ray guards what it starts by a token, as it should.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)  # of how to bound retries; there is no other yet
    warnings.filterwarnings("ignore", module=r"ray\.data")  # advice on numbers of blocks, which the graphs choose


def _connect(address: str) -> None:
    host, port = _host_and_port(address)
    if host:
        try:
            socket.create_connection((host, port), timeout=PROBE_S).close()
        except OSError as error:  # Ray itself would try for many minutes
            raise ClusterError(
                f"RAY_ADDRESS is {address}, but nothing answers there ({error.strerror or error}); is the cluster up, "
                "and can this machine reach it? Correct the variable, or unset it to work on this machine alone"
            ) from error
    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except Exception as error:  # of whatever kind Ray has for what is wrong
        raise ClusterError(
            f"RAY_ADDRESS is {address}, but no Ray cluster can be reached by it ({_first_line(error)}); give HOST:PORT "
            "of its head (6379 is the usual port), with RAY_AUTH_MODE=token where it asks for one (ray get-auth-token "
            "shows it), or unset the variable to work on this machine alone"
        ) from error


def _start() -> None:
    log.info("starting Ray on this machine")
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    try:
        # Slots, not cores: a training worker and the tasks that read for it must fit even on two cores.
        start_ray(num_cpus=max(4, os.cpu_count() or 1), logging_level=logging.WARNING)
    except Exception as error:  # of whatever kind Ray has for what is wrong
        why = _first_line(error)
        if "AF_UNIX" in why:
            todo = "the path of its temporary folder is too long; set RAY_TMPDIR to a short one, such as /tmp"
        elif isinstance(error, OSError):
            todo = (
                "it needs to write to its temporary folder (/tmp/ray, or elsewhere by RAY_TMPDIR) and to .ray in the "
                "home folder (HOME); set the variables to folders of your own"
            )
        else:
            todo = "the machine may be overloaded, or out of memory or disk; free some and run the same command again"
        raise ClusterError(f"Ray cannot start on this machine: {todo} ({why})") from error


def start_ray(**settings: Any) -> None:
    """`ray.init` on this machine alone, and once more where that took too long: Ray gives its processes 15 seconds to
    load, which are too few on a machine that is busy, and their files are at hand the second time.

    Raises:
        Exception: of whatever kind Ray has for what is wrong.
    """
    before = set(psutil.Process().children())
    try:
        ray.init(address="local", include_dashboard=False, **settings)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        log.warning("Ray did not start in time; once more")
        ray.shutdown()
        for process in set(psutil.Process().children()) - before:  # what did start
            with suppress(psutil.NoSuchProcess):
                process.kill()
        ray.init(address="local", include_dashboard=False, **settings)


@contextmanager
def _stopping_as_before() -> Iterator[None]:
    """Lets SIGINT and SIGTERM do what they did before as soon as Ray has started; a second one leaves at once.

    An exception in the middle would be lost now and then, or leave half a Ray behind; and Ray takes SIGTERM for itself,
    to exit in its own way, without what is to be written first and with a trace of C++.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        log.info("stopping as soon as Ray has started; Ctrl-C again leaves at once")

    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for one, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(one, ask)
    setter = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = setter
        for one, handler in before.items():
            signal.signal(one, handler)
        if asked:
            raise KeyboardInterrupt


def _host_and_port(address: str) -> tuple[str, int]:
    """Of `HOST:PORT` or `ray://HOST:PORT`; "" where there is none."""
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() and int(port) < 2**16 else ("", 0)


def _first_line(error: Exception) -> str:
    """Why, in one short sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(". ")[0] if lines else type(error).__name__
