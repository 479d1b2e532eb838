"""Contract: the command that submitted a job goes on with it, and every pair is there once; on a head that runs on this
machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from pipeline.cluster.submission import ROOT
from pipeline.tables.rows import read_ids
from pipeline.tables.shards import list_shards
from pipeline.verify import verify
from tests.chaos.kill import kill_family
from tests.conftest import free_port
from tests.tiny import save_tiny_bundle


def submit(*arguments: str, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.submit", "--address", address, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def head(tmp_path_factory, ray_session):
    """The address of a cluster of one machine, this one."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = (
        f"ray start --head --block --disable-usage-stats --port {free_port()} --dashboard-port {port} --num-cpus 4 "
        f"--dashboard-agent-listen-port {free_port()} --object-store-memory 200000000 "
        f"--ray-client-server-port {free_port()} --temp-dir {tmp_path_factory.mktemp('r')}"
    )
    log = tmp_path_factory.mktemp("head") / "log.txt"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # jobs run the `python` of the head's environment
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.forked", "ray.scripts.scripts", *command.split()[1:]],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={**os.environ, "PATH": path},
        )
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        try:
            JobSubmissionClient(address).list_jobs()
            break
        except Exception:
            time.sleep(0.5)
    yield address
    kill_family(process)


@pytest.mark.ray
@pytest.mark.chaos
def test_submitted_killed_and_submitted_again(head, tmp_path):
    save_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "prompts.txt").write_text("a red bag\na blue dress\n")
    folder, num_pairs = tmp_path / "runs" / "sent", 64
    arguments = (
        f"generate --run sent --runs {tmp_path}/runs --bundle {tmp_path}/bundle --prompts {tmp_path}/prompts.txt "
        f"--pairs {num_pairs} --rows-per-shard 8 --sampler.steps 40 --sampler.batch-size 4 --workers.threads 1"
    ).split()
    first = submit(*arguments, address=head)
    deadline = time.monotonic() + 240
    while len(list_shards(str(folder))) < 2:
        assert time.monotonic() < deadline
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.02)
    client = JobSubmissionClient(head)
    client.stop_job("sent")
    text = first.communicate(timeout=120)[0]
    assert first.returncode == 1 and "the same command goes on where it stopped" in text, text
    num_made = len(read_ids(str(folder)))
    assert 0 < num_made < num_pairs

    second = submit(*arguments, address=head)
    text = second.communicate(timeout=300)[0]
    assert second.returncode == 0 and "sent succeeded" in text, text
    assert f"{num_pairs} pairs and 0 errors" in text, "the log is followed"
    assert len(set(read_ids(str(folder)).to_pylist())) == len(read_ids(str(folder))) == num_pairs
    assert verify(str(folder), deep=True) == []
