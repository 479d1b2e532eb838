"""A generate run on a simulated cluster that loses a node as soon as there is a shard: `python -m tests.chaos.node_lost
CONFIG`."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time

os.environ.update({"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"})

import ray
from ray.cluster_utils import Cluster

from pipeline.cluster import cluster
from pipeline.config import load
from pipeline.generate import GenerateConfig, generate
from pipeline.shards import list_shards


def main() -> None:
    config = load(GenerateConfig, sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # sockets limit the length of paths
        head = {"num_cpus": 2, "object_store_memory": 200 * 2**20, "include_dashboard": False, "temp_dir": folder}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        workers = [nodes.add_node(num_cpus=2, object_store_memory=200 * 2**20) for _ in range(2)]
        ray.init(address=nodes.address, logging_level=logging.ERROR)

        def remove() -> None:
            while not list_shards(str(config.folder)):
                time.sleep(0.01)
            nodes.remove_node(workers[0], allow_graceful=False)
            sys.stdout.write("removed a node\n")
            sys.stdout.flush()

        threading.Thread(target=remove, daemon=True).start()
        with cluster():
            generate(config)
        ray.shutdown()
        nodes.shutdown()


if __name__ == "__main__":
    main()
