"""A training on a simulated cluster that begins with one machine, gets a second one, loses the first and is told to
stop: `python -m tests.chaos.training_elastic CONFIG`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.update(
    {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    }
)

import ray
from ray.cluster_utils import Cluster

from pipeline.cluster import cluster
from pipeline.config import load
from pipeline.errors import Stopped
from pipeline.training import fit, notice
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.vae import VAEConfig, train_vae
from tests.chaos.kill import descendants


def main() -> None:
    config = load(VAEConfig, sys.argv[1])
    fit.RESIZE_S = 3.0
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # sockets limit the length of paths
        head = {"num_cpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": False, "temp_dir": folder}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        first = nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        ray.init(address=nodes.address, logging_level=logging.ERROR)

        def train() -> None:
            with cluster(), contextlib.suppress(Stopped):
                train_vae(config)

        training = threading.Thread(target=train)
        training.start()
        wait_for_checkpoints(config)
        nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)  # only the main thread may
        say("added a node")
        wait_for_workers(2)
        wait_for_checkpoints(config)
        nodes.remove_node(first, allow_graceful=False)
        say("removed a node")
        wait_for_workers(1)
        wait_for_checkpoints(config)
        notice.ask_to_stop(str(config.folder))
        training.join()
        ray.shutdown()
        nodes.shutdown()


def wait_for_checkpoints(config: VAEConfig) -> None:
    found = Checkpoints(str(config.folder))
    before = max(found.steps(), default=0)
    while max(found.steps(), default=0) < before + 100:
        time.sleep(0.05)


def wait_for_workers(num: int) -> None:
    def count() -> int:
        found = [Path(f"/proc/{pid}/cmdline") for pid in descendants(os.getpid())]
        return sum(b"RayTrainWorker" in one.read_bytes() for one in found if one.exists())

    while count() != num:
        time.sleep(0.05)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
