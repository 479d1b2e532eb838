"""The paper's size on a CPU: a bundle with random weights is written, loaded, and does two guided steps in bfloat16;
the joint network does one step of its training.

`python -m benchmarks.full_size [FOLDER]` needs 6 GB of disk and under 12 GB of memory, 22 GB for the training; each
part runs in a process of its own, so that the memory of each is seen. `--plans` only prints what the training takes on
some clusters.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import shapes_of
from models.jodiffusion import JoDiffusionConfig
from pipeline.training.needs import training_needs
from pipeline.training.optimisation import Optimisation
from pipeline.training.tasks.joint import JointConfig, JointTask

CLUSTERS: dict[str, dict[str, Any]] = {
    "8 x 40 GB": {"world_size": 8, "strategy": "fsdp"},
    "8 x 80 GB": {"world_size": 8},
    "1 x 80 GB": {"world_size": 1},
}
"""The paper's training, 64 pairs a step."""


def write(folder: str) -> None:
    """Makes the bundle and saves it."""
    from benchmarks.bundles import random_bundle

    random_bundle("full").save(folder)
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    print(f"  {size / 2**30:.2f} GiB on disk")


def sample(folder: str) -> None:
    """Loads it and makes one pair in two steps."""
    from models.reverse import SamplerSettings
    from models.sampler import PairSampler
    from models.weights import Bundle

    began = time.perf_counter()
    sampler = PairSampler(Bundle.load(folder), SamplerSettings(steps=2, batch_size=1))
    print(f"  loaded in {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    pairs = sampler(["a dog on grass"], [0])
    print(f"  two guided steps and decoding in {time.perf_counter() - began:.0f} s")
    assert pairs.image.shape == (1, 512, 512, 3) and pairs.mask.shape == (1, 512, 512)
    assert pairs.finite.all(), "random weights left the numbers"


def train(folder: str) -> None:
    """One step on one pair, as a worker without GPU does it."""
    from pipeline.training import loop
    from pipeline.training.parallel import Group, recompute_activations
    from pipeline.training.state import TrainState

    task, example = full_task()
    recipe = Optimisation(num_examples=1, batch_size=1)
    needs = training_needs(task, recipe, example, recompute=True, fused_attention=False)
    print(f"  {needs}", flush=True)
    began = time.perf_counter()
    state = TrainState(task.build(), recipe)
    recompute_activations(state.net)
    print(f"  built in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    rows = {name: torch.randn(value.shape) for name, value in example.items()}
    (report,) = loop.train(task, state.net, state, iter([rows]), recipe, group=Group())
    total, count = report.losses["loss"]
    print(f"  a step in {time.perf_counter() - began:.0f} s, loss {total / count:.3f}", flush=True)


def plans() -> None:
    """What the paper's training takes on some clusters, with the most pairs at once that still fit."""
    task, example = full_task()
    for name, cluster in CLUSTERS.items():
        room = 0.9 * float(name.split()[2])  # some is CUDA's own, some is lost between blocks of memory
        for recompute in (False, True):
            for accumulation in (1, 2, 4, 8, 16, 32, 64):
                recipe = Optimisation(num_examples=64, batch_size=64, accumulation=accumulation)
                if 64 // int(cluster["world_size"]) < accumulation:
                    continue
                needs = training_needs(task, recipe, example, recompute=recompute, **cluster)
                if needs.total / 1e9 < room:
                    break
            else:
                continue
            how = f"{cluster.get('strategy', 'ddp')}, accumulation {accumulation}, recompute {recompute}"
            print(f"{name}: {how}\n  {needs}")


def full_task() -> tuple[JointTask, dict[str, torch.Tensor]]:
    """The training of the paper's network, and the sizes of a row."""
    net = JoDiffusionConfig()
    config = JointConfig(
        run="full", train=("",), validation="", net=net, optimisation=Optimisation(num_examples=64, batch_size=64)
    )
    shapes = shapes_of(net)
    return JointTask(config, "", "", shapes), {name: torch.empty(1, *shape) for name, shape in shapes.items()}


def watched(part: Callable[[str], None], folder: str, memory: multiprocessing.Queue[float]) -> None:
    part(folder)
    memory.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="where to write; a temporary folder if left out")
    parser.add_argument("--plans", action="store_true", help="only print what trainings take")
    parser.add_argument("--only", choices=("write", "sample", "train"), help="one part alone")
    options = parser.parse_args()
    if options.plans:
        plans()
        return
    folder = options.folder
    with tempfile.TemporaryDirectory() as temporary:
        context = multiprocessing.get_context("spawn")
        for part, most_gib in ((write, 12.0), (sample, 12.0), (train, 22.0)):
            if options.only not in (None, part.__name__):
                continue
            print(f"{part.__name__}:", flush=True)
            memory = context.Queue()
            process = context.Process(target=watched, args=(part, folder or temporary, memory))
            process.start()
            process.join()
            assert process.exitcode == 0, f"{part.__name__} failed"
            most = memory.get()
            print(f"  {most:.1f} GiB at most", flush=True)
            assert most < most_gib, f"{part.__name__} needs more than {most_gib} GiB"


if __name__ == "__main__":
    main()
