"""cluster.yaml and the jobs of Kubernetes: what `ray up` would refuse, and what it lets pass but nobody wants."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import pytest
import yaml

from pipeline.base.command_line import parse
from pipeline.cluster.submission import Submission
from pipeline.generate import GenerateConfig
from pipeline.runs.config import RunConfig
from pipeline.training.tasks.joint import JointConfig

C = TypeVar("C", bound=RunConfig)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """After Ray's own preparation and validation, as `ray up` does both."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(prepared)
    return prepared


def test_gpu_machines_are_spot_and_may_all_go(cluster):
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0} and types["head"]["max_workers"] == 0
    gpus = types["gpu_sampler"]
    assert gpus["resources"]["GPU"] == 1 and gpus["min_workers"] == 0 < gpus["max_workers"]
    assert gpus["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "GPU" not in types["cpu_refine"]["resources"]
    for name, one in types.items():
        assert 0 <= one["min_workers"] <= one["max_workers"], name
    assert sum(one["max_workers"] for one in types.values()) <= cluster["max_workers"]


def test_nobody_gets_in_without_a_token_and_the_dashboard_is_not_open(cluster):
    assert "-e RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]
    start = cluster["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start and "0.0.0.0" not in str(cluster)
    assert not any("nightly" in command or "wheels" in command for command in cluster["setup_commands"])


def test_the_image_has_the_versions_of_this_checkout_and_all_that_it_copies():
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines() if line and line[0] != "#"]
    (base,) = [words[1] for words in lines if words[0] == "FROM"]
    versions = (ROOT / "constraints.txt").read_text().split()
    assert f"ray=={base.partition(':')[2].partition('-')[0]}" in versions
    for words in lines:
        if words[0] == "COPY":
            assert all((ROOT / one).exists() for one in words[2:-1]), words
            assert {f"!{one}" for one in words[2:-1]} <= {*(ROOT / ".dockerignore").read_text().split()}


def commands() -> list[list[str]]:
    """Words of every command of docs/cluster.md that submits a job."""
    text = (ROOT / "docs" / "cluster.md").read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^\$ python -m jobs\.(submit --address .*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("words", commands(), ids=lambda words: words[3])
def test_every_command_of_the_page_would_be_sent(words):
    _, _, _, job, *arguments = words
    config_type = get_type_hints(import_module(f"jobs.{job}").main)["config"]
    arguments = [str(ROOT / arguments[0]), *arguments[1:]]
    submission = Submission(job, parse(config_type, arguments), arguments, install=False)
    submission.check()
    assert submission.entrypoint.startswith(f"python -m jobs.{job} jobs/configs/voc/")


@pytest.mark.parametrize("file", ["rayjob.yaml", "rayjob-train.yaml"])
def test_a_kubernetes_job_has_no_work_on_its_head_and_asks_for_a_token(file):
    cluster = yaml.safe_load((ROOT / file).read_text())["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"} and head["serviceType"] == "ClusterIP"
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().split()


def command_of(job: dict[str, Any], name: str, config_type: type[C]) -> C:
    """The config of the command that a job of Kubernetes runs."""
    python, flag, module, path, *rest = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", f"jobs.{name}")
    config = parse(config_type, [str(ROOT / path), *rest])
    assert config.runs.startswith("s3://"), "pods leave nothing behind"
    return config


def test_the_kubernetes_job_that_generates_has_a_machine_for_each_sampler():
    job = yaml.safe_load((ROOT / "rayjob.yaml").read_text())
    config = command_of(job, "generate", GenerateConfig)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert config.workers.num == workers["maxReplicas"] and config.workers.gpus == 1
    assert workers["minReplicas"] == 0


def test_the_kubernetes_job_that_trains_has_room_for_its_workers_on_one_machine():
    job = yaml.safe_load((ROOT / "rayjob-train.yaml").read_text())
    config = command_of(job, "train_joint", JointConfig)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    room = container["resources"]["requests"]
    assert workers["minReplicas"] == workers["maxReplicas"] == 1 and config.workers.gpus == 1
    assert room["nvidia.com/gpu"] == config.workers.num == 8
    assert int(room["cpu"]) > config.workers.num * config.workers.cpus, "and for Ray's own processes"
