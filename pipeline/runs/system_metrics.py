"""What a machine's CPUs, memory, disk, network and GPUs do during a run, under the names that MLflow's page shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from pipeline.runs.tracking import Tracker

MB = 1e6


@contextmanager
def system_metrics(tracker: Tracker, every_s: float = 10.0, node: str = "") -> Iterator[None]:
    """Logs what this process' machine does as `system/...`, every `every_s` seconds, until the block ends.

    MLflow's own monitor would ask the server at every sample, and end for good when that does not answer.

    Args:
        tracker: of the run.
        every_s: between samples; each is what the machine does then, or has done since the one before.
        node: of several machines, the name of this one; it goes into the names (`system/<node>/...`).
    """
    sample = sampler()
    prefix = f"system/{node}/" if node else "system/"
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            values = {prefix + name: value for name, value in sample().items()}
            tracker.metrics(values, step=int(time.time()))  # a run that goes on does not begin at 0 again

    watcher = threading.Thread(target=watch, name="system-metrics", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def sampler() -> Callable[[], dict[str, float]]:
    """A function that samples this machine: shares in per cent, sizes in MB (network: since this call), power in W."""
    psutil.cpu_percent()  # the first call has nothing to compare with
    network = psutil.net_io_counters()
    gpus = _nvidia_gpus()

    def sample() -> dict[str, float]:
        values = {"cpu_utilization_percentage": psutil.cpu_percent()}
        memory = psutil.virtual_memory()
        values["system_memory_usage_megabytes"] = memory.used / MB
        values["system_memory_usage_percentage"] = memory.used / memory.total * 100
        with suppress(OSError):
            disk = psutil.disk_usage("/")
            values["disk_usage_megabytes"] = disk.used / MB
            values["disk_usage_percentage"] = disk.percent
            values["disk_available_megabytes"] = disk.free / MB
        if network and (now := psutil.net_io_counters()):  # None on machines without a network
            values["network_receive_megabytes"] = (now.bytes_recv - network.bytes_recv) / MB
            values["network_transmit_megabytes"] = (now.bytes_sent - network.bytes_sent) / MB
        for number, gpu in enumerate(gpus):
            values |= {f"gpu_{number}_{name}": value for name, value in gpu().items()}
        return values

    return sample


def _nvidia_gpus() -> list[Callable[[], dict[str, float]]]:
    """A function for each GPU; none without a driver, or without the package nvidia-ml-py."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except ImportError:
        return []
    except pynvml.NVMLError:
        return []

    def of(handle: Any) -> Callable[[], dict[str, float]]:
        def sample() -> dict[str, float]:
            values: dict[str, float] = {}
            with suppress(pynvml.NVMLError):  # each may be one that this kind of GPU does not tell
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                values["memory_usage_megabytes"] = memory.used / MB
                values["memory_usage_percentage"] = memory.used / memory.total * 100
            with suppress(pynvml.NVMLError):
                values["utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            with suppress(pynvml.NVMLError):
                values["power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
            return values

        return sample

    return [of(handle) for handle in handles]
