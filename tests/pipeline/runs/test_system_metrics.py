"""What the machine does is logged while a block runs, with or without GPUs that can be asked."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

from pipeline.runs.system_metrics import sampler, system_metrics
from pipeline.runs.tracking import Tracker


def test_samples_are_logged_until_the_block_ends(monkeypatch):
    got = []
    monkeypatch.setattr(Tracker, "metrics", lambda self, values, step: got.append((values, step)))
    with system_metrics(Tracker("", ""), every_s=0.005, node="head"):
        deadline = time.monotonic() + 5
        while len(got) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
    number = len(got)
    assert number >= 2
    time.sleep(0.02)
    assert len(got) == number
    values, step = got[-1]
    assert abs(step - time.time()) < 10
    assert 0 < values["system/head/system_memory_usage_percentage"] < 100
    assert {"system/head/cpu_utilization_percentage", "system/head/disk_usage_percentage"} <= values.keys()


def test_gpus_are_asked_where_they_can_be(monkeypatch):
    def refuse(handle):
        raise LookupError

    fake = SimpleNamespace(
        NVMLError=LookupError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=2e9, total=8e9),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=97),
        nvmlDeviceGetPowerUsage=refuse,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    values = sampler()()
    assert values["gpu_1_memory_usage_percentage"] == 25 and values["gpu_0_utilization_percentage"] == 97
    assert "gpu_0_power_usage_watts" not in values
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=LookupError, nvmlInit=lambda: refuse(0)))
    assert not [name for name in sampler()() if "gpu" in name]
