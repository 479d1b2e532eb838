"""`benchmarks.alone`: jobs without Ray and MLflow write what they write with them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import alone_ray
from tests.tiny import save_pairs, save_tiny_bundle

ROOT = Path(__file__).parents[2]
INGEST = ["--runs", "RUNS", "--dataset", "builtin2", "--split", "validation", "--pairs", "48"]


def run(module: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), *args], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_blocks_are_cut_to_size_whatever_they_are():
    import numpy as np
    import pyarrow as pa

    tables = [pa.table({"pair_id": list("abc")}), pa.table({"pair_id": list("de")})]
    assert [one["pair_id"].to_pylist() for one in alone_ray.cut(tables, 2)] == [["a", "b"], ["c", "d"], ["e"]]
    arrays = [{"image": np.zeros((3, 2, 2))}, {"image": np.ones((1, 2, 2))}]
    assert [len(one["image"]) for one in alone_ray.cut(arrays, 3)] == [3, 1]
    assert alone_ray.as_table(arrays[1])["image"].to_pylist() == [[[1, 1], [1, 1]]]


def test_a_table_of_jobs_is_whole(tmp_path):
    """Trainings, and the labels of one of them."""
    runs = str(tmp_path)
    save_pairs(tmp_path / "pairs", 32)
    save_pairs(tmp_path / "test", 8, "test")
    (tmp_path / "proof.yaml").write_text(
        f"run: proof\nruns: {runs}\nsets:\n"
        f"  real: {{train: [{runs}/pairs], slices: ['0:16']}}\n"
        f"  held: {{train: [{runs}/pairs, {runs}/pairs], slices: ['0:16', '16:32'], masks: [own, held]}}\n"
        f"test: {runs}/test\nsteps: 2\nbatch_size: 4\nwidth: 4\nseeds: 1\nat_once: 2\nworkers: {{threads: 1}}\n"
    )
    told = run("benchmarks.alone evaluate", f"{runs}/proof.yaml")
    assert "segmenter trained on held (32 pairs)" in told and "RuntimeWarning" not in told
    rows = json.loads((tmp_path / "proof" / "proof.json").read_text())["sets"]
    assert [len(one["miou"]) for one in rows] == [1, 1]
    (labels,) = (tmp_path / "proof").glob("labels-held-0-*/shards/*.parquet")
    assert pq.read_table(labels)["origin"].unique().to_pylist() == ["labelled"]


def test_ctrl_c_in_a_terminal_saves_what_is_trained(tmp_path):
    """A terminal sends the signal to every process of the job."""
    save_pairs(tmp_path / "pairs", 16)
    save_pairs(tmp_path / "test", 8, "test")
    (tmp_path / "proof.yaml").write_text(
        f"run: proof\nruns: {tmp_path}\nsets: {{real: [{tmp_path}/pairs]}}\ntest: {tmp_path}/test\n"
        "steps: 100000\nbatch_size: 4\nwidth: 4\nseeds: 1\nworkers: {threads: 1}\n"
    )
    command = [sys.executable, "-m", "benchmarks.alone", "evaluate", f"{tmp_path}/proof.yaml"]
    job = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    told = ""
    assert job.stdout is not None
    for line in job.stdout:
        told += line
        if "of 400000 examples" in line:
            os.killpg(job.pid, signal.SIGINT)
            break
    told += job.communicate(timeout=120)[0]
    assert job.returncode == 130 and "KeyboardInterrupt" not in told, told
    assert [*tmp_path.glob("proof/real-0-*/checkpoints/step_*.safetensors")], told


def test_what_is_read_is_what_the_job_reads(tmp_path, ray_session):
    from pipeline.base.config import Workers
    from pipeline.ingest import IngestConfig, ingest

    several = [str(tmp_path) if one == "RUNS" else one for one in INGEST]
    run("benchmarks.alone ingest", "--run", "alone", "--workers.num", "2", *several)
    ingest(
        IngestConfig(
            run="job", runs=str(tmp_path), dataset="builtin2", split="validation", pairs=48, workers=Workers(num=1)
        )
    )
    found = []
    for name in ("alone", "job"):
        tables = [pq.read_table(path) for path in (tmp_path / name / "shards").glob("*.parquet")]
        assert len(tables) == 1
        found.append(tables[0].sort_by("pair_id"))
    assert found[0].schema == found[1].schema and found[0].equals(found[1])


def test_pairs_are_made_of_prompts(tmp_path):
    save_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "prompts.txt").write_text("a red bag\na boot\n")
    settings = ["--sampler.steps", "2", "--sampler.batch-size", "2", "--workers.num", "2"]
    run(
        "benchmarks.alone generate", "--run", "made", "--runs", str(tmp_path), "--bundle", f"{tmp_path}/bundle",
        "--prompts", f"{tmp_path}/prompts.txt", "--pairs", "5", *settings,
    )  # fmt: skip
    assert json.loads((tmp_path / "made" / "manifest.json").read_text())["num_pairs"] == 5
    run("benchmarks.alone report", "--run", "page", "--runs", str(tmp_path), "--pairs", f"{tmp_path}/made")
    assert "<dt>Samplers</dt><dd>2</dd>" in (tmp_path / "page" / "report.html").read_text()


def test_without_a_job_it_says_how_to_call_it():
    done = subprocess.run([sys.executable, "-m", "benchmarks.alone"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "python -m benchmarks.alone JOB" in done.stderr


def test_a_job_that_cannot_be_run_so_is_told_in_one_line():
    for name, told in (("generat", "there is no job generat"), ("paper.table", "there is no job paper.table")):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.alone", name], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 1 and done.stderr.splitlines() == [f"error: {told}; python -m jobs lists them"]
