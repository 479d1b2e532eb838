"""A training on a simulated cluster that begins with one machine, gets a second one, loses the first and is told to
stop: `python -m tests.chaos.training_elastic CONFIG`."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

os.environ.update({"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"})

from tests.chaos.simulated import STORE, simulated_cluster  # isort: split

from pipeline.base.command_line import load
from pipeline.base.errors import Stopped
from pipeline.cluster.connection import cluster
from pipeline.training import fit, notice
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.tasks.latents import VAEConfig
from pipeline.training.tasks.vae import train_vae
from tests.chaos.kill import descendants
from tests.zygote import PROCESS


def main() -> None:
    config = load(VAEConfig, sys.argv[1])
    fit.RESIZE_S = 3.0
    with simulated_cluster(head_cpus=0) as nodes:
        first = nodes.add_node(num_cpus=1, **STORE)

        def train() -> None:
            with cluster(), contextlib.suppress(Stopped):
                train_vae(config)

        training = threading.Thread(target=train)
        training.start()
        wait_for_checkpoints(config)
        nodes.add_node(num_cpus=1, **STORE)  # only the main thread may
        say("added a node")
        wait_for_workers(2)
        wait_for_checkpoints(config)
        nodes.remove_node(first, allow_graceful=False)
        say("removed a node")
        wait_for_workers(1)
        wait_for_checkpoints(config)
        notice.ask_to_stop(str(config.folder))
        training.join()


def wait_for_checkpoints(config: VAEConfig) -> None:
    found = Checkpoints(str(config.folder))
    before = max(found.steps(), default=0)
    while max(found.steps(), default=0) < before + 100:
        time.sleep(0.05)


def wait_for_workers(num: int) -> None:
    def count() -> int:
        found = [Path(f"/proc/{pid}/cmdline") for pid in descendants(int(os.environ[PROCESS]))]
        return sum(b"RayTrainWorker" in one.read_bytes() for one in found if one.exists())

    while count() != num:
        time.sleep(0.05)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
