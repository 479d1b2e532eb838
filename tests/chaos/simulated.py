"""A Ray cluster of several nodes on this machine, which notices within seconds that one is gone. To be imported before
Ray."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.update(
    {
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",  # no dashboard runs; who asks for it would ask every second
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    }
)

import ray
from ray.cluster_utils import Cluster

STORE = {"object_store_memory": 150 * 2**20}


@contextmanager
def simulated_cluster(head_cpus: int) -> Iterator[Any]:
    """A cluster with a head alone, and the connection to it. Nodes come by `add_node(num_cpus=..., **STORE)`, and go
    without a word by `remove_node(node, allow_graceful=False)`."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # sockets limit the length of paths
        head = {"num_cpus": head_cpus, "include_dashboard": False, "no_monitor": True, "temp_dir": folder, **STORE}
        nodes = Cluster(initialize_head=True, head_node_args={**head, "dashboard_agent_listen_port": 0})
        ray.init(address=nodes.address, logging_level=logging.ERROR)
        try:
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()
