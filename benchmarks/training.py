"""Training the joint network, in one run: under Ray Train against the same loop without Ray, both against the
reference's way; and what Ray Data's `streaming_split` gives against the feed that trainings read from.

`python -m benchmarks.training` (about ten minutes on two cores, with the demo's network and one thread). On a GPU,
`--size full` takes the paper's network and adds the share of the chip's peak. Each way runs in a process of its own,
twice; the better counts.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

import models.uvit
from benchmarks.sampler import chip, evaluation_flops, matrix_peak
from models.diffusion import Diffusion, LossWeights
from models.draws import Draws
from models.jodiffusion import JoDiffusionConfig
from pipeline.base.config import Workers
from pipeline.base.log import set_up_logging
from pipeline.cluster.connection import cluster
from pipeline.runs import history
from pipeline.runs.run import Run
from pipeline.tables.shards import write_table
from pipeline.training.feed import Feed
from pipeline.training.fit import fit
from pipeline.training.loop import train
from pipeline.training.optimisation import Optimisation
from pipeline.training.parallel import Group, recompute_activations
from pipeline.training.state import TrainState
from pipeline.training.tasks.joint import JointConfig, JointTask

DEMO = JoDiffusionConfig(
    latent_size=16,
    mask_channels=8,
    num_heads=3,
    num_layers=8,
    num_text_tokens=24,
    text_width=64,
    clip_image_width=64,
    pre_norm=True,
    shared_positions=True,
)
WAYS = ("ours", "reference, float16", "reference, bfloat16")
RAY = "ours, under Ray Train"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("demo", "full"), default="demo")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4096, help="latents to read from")
    parser.add_argument("--threads", type=int, default=1, help="of torch; leave Ray a core for itself")
    parser.add_argument("--part", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(measure(options))
        return
    set_up_logging()
    device = Group(device=_device()).device
    print(f"{datetime.date.today()}  {chip(device)}  {options.threads} threads  {' '.join(sys.orig_argv)}")
    with tempfile.TemporaryDirectory() as folder, cluster():  # cluster() sets what workers and parts inherit
        save_latents(config_of(options).net, options.rows, f"{folder}/latents")
        found: dict[str, list[float]] = {}
        for round_ in range(options.rounds):
            for way in WAYS:
                seconds = in_a_process(way, folder)
                found.setdefault(way, []).append(seconds)
            found.setdefault(RAY, []).append(under_ray(options, folder, round_))
        rows = options.steps * options.batch_size
        rates = {way: rows / min(seconds) for way, seconds in found.items()}
        print(
            f"\n{'way':24} {'examples/s':>10} {'of ours':>8} {'x reference':>11}" + " of peak" * (device.type == "cuda")
        )
        for way, rate in rates.items():
            line = f"{way:24} {rate:10.2f} {rate / rates['ours']:8.3f} {rate / rates['reference, float16']:11.2f}"
            if device.type == "cuda":
                share = 3 * evaluation_flops(config_of(options).net) * rate / matrix_peak(device)
                line += f" {share:7.1%}"
            print(line)
        feeding(options, folder)


def in_a_process(way: str, folder: str) -> float:
    arguments = [one for one in sys.argv[1:] if one != "--part"]
    command = [sys.executable, "-m", "benchmarks.training", *arguments, "--part", way, "--folder", folder]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def measure(options: argparse.Namespace) -> float:
    """Seconds of `steps` steps of one way, behind five that warm up."""
    torch.set_num_threads(options.threads)
    steps = ours(options) if options.part == "ours" else reference(options, options.part.endswith("float16"))
    for _ in range(5):
        next(steps)
    began = time.perf_counter()
    for _ in islice(steps, options.steps):
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ours(options: argparse.Namespace) -> Iterator[object]:
    """The loop of all trainings, without Ray."""
    config, group = config_of(options), Group(device=_device())
    task = task_of(config)
    torch.manual_seed(0)
    net = task.build().to(group.device)
    state = TrainState(net, config.optimisation, group)
    if options.size == "full":
        recompute_activations(net)
    feed = Feed((f"{options.folder}/latents",), task.columns, task.decode, cache=config.cache)
    batches = feed.batches(options.batch_size, pin=group.device.type == "cuda")
    return train(task, net, state, batches, config.optimisation, group=group)


def reference(options: argparse.Namespace, float16: bool) -> Iterator[None]:
    """What the reference does: autocast, torch's own norms and attention, one optimiser call a tensor, noise and one
    mean over all numbers, weights of the last step alone."""
    models.uvit.attention = functional.scaled_dot_product_attention
    models.uvit.LayerNorm.forward = torch_norm  # type: ignore[method-assign]
    device, config = _device(), config_of(options)
    task = task_of(config)
    net = task.build().to(device)
    if options.size == "full":
        recompute_activations(net)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, foreach=False, fused=False)
    scaler = torch.amp.GradScaler(device.type, enabled=float16)
    feed = Feed((f"{options.folder}/latents",), task.columns, task.decode)
    for step, batch in enumerate(feed.batches(options.batch_size)):
        rows = {name: value.to(device) for name, value in batch.items()}
        draws = Draws(0, step, range(options.batch_size), device)
        with torch.autocast(device.type, torch.float16 if float16 else torch.bfloat16):
            loss, _ = task.loss(net, rows, draws)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0, foreach=False)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        yield


def torch_norm(self: nn.LayerNorm, x: Tensor, branch: Tensor | None = None) -> Tensor:
    """As `models.uvit.LayerNorm`, in whatever dtype autocast chooses."""
    return nn.LayerNorm.forward(self, x if branch is None else x + branch)


def under_ray(options: argparse.Namespace, folder: str, round_: int) -> float:
    """Seconds of the same steps in a worker of Ray Train, with its meetings and log."""
    config = config_of(options).model_copy(
        update={"run": f"ray-{round_}", "runs": f"{folder}/runs", "train": (f"{folder}/latents",)}
    )
    config = config.model_copy(update={"validation": f"{folder}/latents", "validation_rows": 8})
    with Run.open(config, "benchmark") as run:
        fit(Quiet(config, "", "", task_of(config).shapes), config, run)
    points = [point for point in history.read(run.folder) if "examples_per_s" in point]
    if len(points) < 2:
        raise SystemExit("under Ray Train it was over too soon to be measured; give more --steps")
    waited = max(point["data_wait_share"] for point in points[1:])
    print(f"under Ray Train: steps wait for data at most {waited:.2%} of their time")
    # The first point has the slow first steps, which the others leave out.
    seconds = sum((now["examples"] - before["examples"]) / now["examples_per_s"] for before, now in pairwise(points))
    rows = points[-1]["examples"] - points[0]["examples"]
    return seconds * options.steps * options.batch_size / rows


class Quiet(JointTask):
    """The joint network, whose weights nobody needs."""

    def save(self, net: nn.Module, examples: dict[str, Tensor], folder: Path) -> None:
        folder.mkdir(parents=True)


def feeding(options: argparse.Namespace, folder: str) -> None:
    """Batches a second, and seconds to the first batch of an epoch, with nobody who trains on them."""
    import ray.data

    task = task_of(config_of(options))
    latents = f"{folder}/latents"
    per_epoch = options.rows // options.batch_size

    def feed(cache: bool, epoch: int) -> Iterator[Any]:
        one = Feed((latents,), task.columns, task.decode, cache=cache)
        return islice(one.batches(options.batch_size, epoch * per_epoch), per_epoch)

    data = ray.data.read_parquet(f"{latents}/shards").select_columns(list(task.columns)).map_batches(task.decode)
    (split,) = data.streaming_split(1, equal=True)

    def streaming_split(epoch: int) -> Iterator[Any]:
        return iter(
            split.iter_torch_batches(batch_size=options.batch_size, local_shuffle_buffer_size=1024, drop_last=True)
        )

    print(f"\n{'batches from':28} {'first batch, s':>14} {'batches/s behind it':>20}   (second epoch)")
    ways: dict[str, Callable[[int], Iterator[Any]]] = {
        "the feed": partial(feed, False),
        "the feed, all in memory": partial(feed, True),
        "Ray Data's streaming_split": streaming_split,
    }
    for name, way in ways.items():
        for epoch in (0, 1):
            began = time.perf_counter()
            batches = way(epoch)
            next(batches)
            first_s = time.perf_counter() - began
            count = sum(1 for _ in batches)
            rest_s = time.perf_counter() - began - first_s
        print(f"{name:28} {first_s:14.2f} {count / rest_s:20.1f}")


def config_of(options: argparse.Namespace) -> JointConfig:
    """A training of `steps` steps and five that warm up."""
    full = options.size == "full"
    return JointConfig(
        run="benchmark",
        train=("",),
        validation="",
        net=JoDiffusionConfig() if full else DEMO,
        diffusion=Diffusion() if full else Diffusion(objective="flow", text_noise="dropout"),
        loss_weights=LossWeights(),
        optimisation=Optimisation(
            num_examples=(options.steps + 5) * options.batch_size, batch_size=options.batch_size, learning_rate=1e-4
        ),
        recompute_activations=full,
        workers=Workers(threads=options.threads, gpus=1 if torch.cuda.is_available() else 0),
        log_every_s=4.0,
        checkpoint_examples=10**9,
    )


def task_of(config: JointConfig) -> JointTask:
    return JointTask(config, "", "", shapes_of(config.net))


def shapes_of(net: JoDiffusionConfig) -> dict[str, tuple[int, ...]]:
    return {
        "image_latent": (net.image_channels, net.latent_size, net.latent_size),
        "mask_latent": (net.mask_channels, net.latent_size, net.latent_size),
        "image_embedding": (1, net.clip_image_width),
        "text_embedding": (net.num_text_tokens, net.text_width),
    }


def save_latents(net: JoDiffusionConfig, rows: int, folder: str) -> None:
    """Random latents in eight shards."""
    generator = np.random.default_rng(0)
    for part in np.array_split(np.arange(rows), 8):
        columns = {
            name: [generator.standard_normal(shape).astype("<f2").tobytes() for _ in part]
            for name, shape in shapes_of(net).items()
        }
        write_table(pa.table({"latent_id": [str(row) for row in part], **columns}), f"{folder}/shards")


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
