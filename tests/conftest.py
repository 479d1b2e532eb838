"""What every test needs: an environment that is set before Ray or torch is imported, and one small Ray for all."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.zygote import ADDRESS, PROCESS


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",  # nothing is fetched; tests make the weights that they need
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_AUTH_MODE": "disabled",  # a token would be looked for in the home folder
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",  # Ray would start 32 processes for each table that is read
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # Ray's 2 s make a trivial training take 20 s and more
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process less to start; nothing is taken back here
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",  # several processes share few cores, and sums in one order give one result
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        # An S3 API that a test may start on this machine, known to Ray's workers from the beginning.
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-must-show-nowhere",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3": '{"config_kwargs": {"retries": {"max_attempts": 1}}}',  # s3fs itself tries five times
    }
)
if shutil.disk_usage("/dev/shm").free > 4 * 2**30:  # MLflow syncs a thousand times to make a database, for each test
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # begun in the background of a script; jobs would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):  # a test must never reach the user's cluster or server
    os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Torch in the test process uses one thread. Not imported here: tests without it should not wait for it."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def one_mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """MLflow takes a second to make a database; those of tests are copies of one. Gives what makes a new one."""
    from pipeline.runs import mlflow_server

    made = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect = mlflow_server.connect

    def copied(uri: str) -> object:
        if not uri.endswith(".draft"):
            return connect(uri)
        if not made.exists():
            connect(f"sqlite:///{made}")
        return shutil.copy(made, uri.removeprefix("sqlite:///"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_server, "connect", copied)
        yield connect


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One local Ray with four slots for all tests that ask for it; jobs under test share the connection.

    A test that kills nodes or drivers starts its own instead.
    """
    import logging

    import ray
    from ray._private import parameter

    from pipeline.cluster.connection import start_ray

    zygote = str(Path(__file__).parent / "zygote.py")
    path = str(tmp_path_factory.mktemp("zygote") / "socket")
    process = subprocess.Popen([sys.executable, zygote, "--serve", path])
    os.environ.update({ADDRESS: path, PROCESS: str(process.pid)})
    with pytest.MonkeyPatch.context() as patch:
        # The usual port stays free for the jobs that tests start: they would wait 3 s for it.
        parameters = partial(parameter.RayParams, dashboard_agent_listen_port=0, setup_worker_path=zygote)
        patch.setattr(parameter, "RayParams", parameters)
        while not os.path.exists(path):
            assert process.poll() is None, "the process that workers are forked from did not start"
            time.sleep(0.05)
        start_ray(
            num_cpus=4,  # slots, not cores: a training worker and the tasks that read for it fit even on two cores
            object_store_memory=300 * 2**20,
            logging_level=logging.ERROR,
        )
    try:
        yield
    finally:
        ray.shutdown()
        process.terminate()
        process.wait()
