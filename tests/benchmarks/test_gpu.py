"""`benchmarks/gpu.sh`: every job after what it needs, and none again that is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from pipeline.evaluate import EvaluateConfig

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
PYTHON = """#!/bin/sh
[ "$1" = -c ] && exec {python} "$@"
echo "$2 $*" >> {log}
case "$*" in *"${{FAIL:-nothing}} "*) echo broken; exit 3;; esac
case "$*" in
    *image_vae.yaml*) sleep 1; touch {log}.vae;;
    *image_decoder.yaml*) [ -e {log}.vae ] || {{ echo no VAE yet; exit 4; }};;
esac
"""
"""Counts for the script, and in the place of jobs only notes which began; the image VAE, whose decoder is trained on,
takes longer than the others."""


def test_jobs_wait_for_what_they_need_and_are_done_once(tmp_path):
    log, python = tmp_path / "log.txt", tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable, log=log))
    python.chmod(0o755)

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), str(tmp_path / "runs"), "0.01"],
            cwd=SCRIPT.parents[1],
            env={**os.environ, "PYTHON": str(python), **environment},
            capture_output=True,
            text=True,
        )

    failed = run(FAIL="latents-true")
    assert failed.returncode == 1 and "latents-true failed" in failed.stdout and "broken" in failed.stdout
    begun = log.read_text()
    assert "jobs.label " in begun and "jobs.train_joint" not in begun

    again = run()
    assert again.returncode == 0, again.stdout + again.stderr
    jobs = [line.split()[0] for line in log.read_text().splitlines()]
    assert jobs.count("jobs.label") == 1 and jobs.count("jobs.encode") == 5 + 1, "what failed alone is done again"
    assert jobs.count("jobs.train_joint") == jobs.count("jobs.generate") == 3 and jobs.count("jobs.evaluate") == 6
    assert jobs.index("jobs.generate") > max(place for place, name in enumerate(jobs) if name == "jobs.train_joint")


def test_so_many_pictures_have_labels(tmp_path):
    log, python = tmp_path / "log.txt", tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable, log=log))
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "runs"), "1"],
        cwd=SCRIPT.parents[1],
        env={**os.environ, "PYTHON": str(python), "LABELLED": "128", "ALONE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    begun = [line for line in log.read_text().splitlines() if "preload" not in line]
    assert all(line.startswith("benchmarks.alone -m benchmarks.alone ") for line in begun)
    (labels,) = (line for line in begun if " label " in line)
    assert "--slice 128: --slices 0:128" in labels
    config = EvaluateConfig.model_validate(yaml.safe_load((tmp_path / "runs/logs/few_labels.yaml").read_text()))
    assert config.sets["real 128"].slices == ("0:128",) and config.sets["synthetic 4x"].slices == ("0:512",)
    assert config.generator_slices == ("0:128",) and config.generator_pictures == 12_160
    assert "512:" not in (tmp_path / "runs/logs/few_labels.yaml").read_text()
