"""The connection to Ray: the cluster that a job runs on, or a small one of its own."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.annotations import RayDeprecationWarning

from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.base.log import log

ROOM_CPUS = 1.5
"""What the tasks beside a pool of workers take: one that refines or decodes, one that writes."""


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
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Threads that wait for each other spin for some microseconds, then sleep, so that others get the cores: sleeping at
    # once costs a third of a small network's training step, spinning for long costs its neighbours.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    # Without it glibc gives the memory of every step back to the kernel: a tenth of a training step on a CPU.
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**25))
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors reach the user once, as they were raised
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)  # of how to bound retries; there is no other yet
    warnings.filterwarnings("ignore", module=r"ray\.data")  # advice on numbers of blocks, which the graphs choose
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, logging_level=logging.WARNING)
    else:
        log.info("starting Ray on this machine")
        # Processes that one machine has no use for: each takes a second or two to start.
        os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "2")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # Slots, not cores: a training worker and the tasks that read for it must fit even on two cores.
        ray.init(
            address="local",
            num_cpus=max(4, os.cpu_count() or 1),
            include_dashboard=False,
            logging_level=logging.WARNING,
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # a user's mistake in a stage reaches the user as it was raised
    try:
        yield
    finally:
        ray.shutdown()
