"""Generation end to end against bare samplers in a plain loop, in one run: what everything around the sampler costs.

`python -m benchmarks.never_wait` (about 10 minutes on two cores). First with a sampler that takes a GPU's time (0.3 s a
pair at 512 px, batches of 16, the processor free meanwhile), then the same before CPU tasks that take twice as long
each, then with the demo's own, which shares the cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import pipeline.generate
from benchmarks.cheap import CheapStage, cheap_sampler, slow_refine_and_pack
from benchmarks.sampler import chip
from models.reverse import SamplerSettings
from pipeline.base.config import Workers
from pipeline.cluster.connection import cluster
from pipeline.generate import GenerateConfig, generate
from pipeline.stages.refine import Refine
from pipeline.stages.sample import SamplePairs

BUNDLE = "bundles/garments"
SLOW_TASKS = 3
PROMPTS = ("a red bag on fur", "a green boot on bricks", "a blue dress above a white sneaker on gravel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=960, help="with the timed sampler")
    parser.add_argument("--demo-pairs", type=int, default=768)
    parser.add_argument("--samplers", type=int, default=1, help="with the timed sampler")
    parser.add_argument("--wait-s", type=float, default=0.3)
    parser.add_argument("--slow-pairs", type=int, default=320, help="with the timed sampler, before slow tasks")
    parser.add_argument("--image-format", default="webp")
    options = parser.parse_args()
    print(f"{datetime.date.today()}  {chip(torch.device('cpu'))}  {' '.join(sys.orig_argv)}")
    folder = Path(tempfile.mkdtemp(prefix="benchmark"))
    try:
        (folder / "prompts.txt").write_text("\n".join(PROMPTS))
        with cluster():
            timed_sampler(folder, options)
            demo_sampler(folder, options)
    finally:
        shutil.rmtree(folder)


def timed_sampler(folder: Path, options: argparse.Namespace) -> None:
    """Waits instead of sampling, at full size: before the tasks that every run has, and before slow ones, as many as
    keep up with the sampler, of which each takes longer than it."""
    wait_s, samplers = options.wait_s, Workers(num=options.samplers, cpus=0.5)
    behind_s = 2 / 3 * SLOW_TASKS * wait_s / options.samplers
    stage = CheapStage(512, wait_s, False)
    bare = options.samplers * rate_of(stage, 16, 48)
    with patch.object(pipeline.generate, "make_sampler", cheap_sampler(512, wait_s, False)):
        timed = partial(run, folder, settings=SamplerSettings(batch_size=16), workers=samplers)
        name = f"timed, {options.samplers} x {wait_s} s a pair, 512 px"
        seconds = timed("timed", num_pairs=options.pairs, image_format=options.image_format)
        show(name, options.pairs, seconds, bare, folder / "timed")
        with patch.object(pipeline.generate, "refine_and_pack", partial(slow_refine_and_pack, behind_s)):
            seconds = timed("slow", num_pairs=options.slow_pairs, image_format=options.image_format, tasks=SLOW_TASKS)
        name = f"{name}, before {SLOW_TASKS} tasks of {behind_s:.2g} s a pair"
        show(name, options.slow_pairs, seconds, bare, folder / "slow")


def demo_sampler(folder: Path, options: argparse.Namespace) -> None:
    """The demo's network and settings, on the same cores as everything else."""
    settings = SamplerSettings(steps=20, solver="dpmsolver++2", batch_size=32, guidance=1.5)
    seconds = run(folder, "demo", settings, options.demo_pairs, "png", Workers(threads=2))
    torch.set_num_threads(2)
    bare = rate_of(SamplePairs(BUNDLE, settings), 32, 192)
    show("demo, 64 px", options.demo_pairs, seconds, bare, folder / "demo")


def run(
    folder: Path,
    name: str,
    settings: SamplerSettings,
    num_pairs: int,
    image_format: str,
    workers: Workers,
    tasks: int = 2,
) -> float:
    """Seconds of a whole generate job, from the first look at the config to the manifest."""
    config = GenerateConfig.model_validate(
        {
            "run": name,
            "runs": str(folder),
            "bundle": BUNDLE,
            "prompts": str(folder / "prompts.txt"),
            "pairs": num_pairs,
            "sampler": settings,
            "refine": Refine(),
            "image_format": image_format,
            "workers": workers,
            "refine_on": Workers(num=tasks),
        }
    )
    began = time.perf_counter()
    assert generate(config).num_pairs == num_pairs
    return time.perf_counter() - began


def rate_of(stage: object, batch_size: int, num_pairs: int) -> float:
    """Pairs a second of one stage called in a loop."""
    prompts = prompts_of(batch_size)
    began = time.perf_counter()
    for start in range(0, num_pairs, batch_size):
        seeds = np.arange(start, start + batch_size)
        stage({"prompt": prompts, "seed": seeds})  # type: ignore[operator]
    return num_pairs / (time.perf_counter() - began)


def prompts_of(count: int) -> np.ndarray:
    """That many prompts, in turn."""
    return np.array([PROMPTS[index % len(PROMPTS)] for index in range(count)], object)


def show(name: str, num_pairs: int, seconds: float, bare: float, folder: Path) -> None:
    """One line, and where the time went."""
    kept = json.loads((folder / "throughput.json").read_text())
    print(f"{name}: bare {bare:.3g} pairs/s")
    for what, took in (
        ("whole job", seconds),
        ("graph", kept["seconds"]),
        ("from the first batch on", kept["steady_s"]),
    ):
        print(f"  {what:24} {took:7.1f} s  {num_pairs / took:6.3g} pairs/s  {num_pairs / took / bare:5.2f} of bare")
    for stage, facts in kept["stages"].items():
        busy = facts["busy_s"] / (facts["busy_s"] + facts["idle_s"])
        print(f"  {stage:8} busy {busy:4.0%}, {facts['num_bytes'] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
