"""A generate run on a simulated cluster that loses a node as soon as there is a shard: `python -m tests.chaos.node_lost
CONFIG`."""

from __future__ import annotations

import sys
import threading
import time

from tests.chaos.simulated import STORE, simulated_cluster  # isort: split

from pipeline.base.command_line import load
from pipeline.cluster.connection import cluster
from pipeline.generate import GenerateConfig, generate
from pipeline.tables.shards import list_shards


def main() -> None:
    config = load(GenerateConfig, sys.argv[1])
    with simulated_cluster(head_cpus=2) as nodes:
        workers = [nodes.add_node(num_cpus=2, **STORE) for _ in range(2)]

        def remove() -> None:
            while not list_shards(str(config.folder)):
                time.sleep(0.01)
            nodes.remove_node(workers[0], allow_graceful=False)
            sys.stdout.write("removed a node\n")
            sys.stdout.flush()

        threading.Thread(target=remove, daemon=True).start()
        with cluster():
            generate(config)


if __name__ == "__main__":
    main()
