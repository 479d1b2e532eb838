"""The paper's size on a CPU: a bundle with random weights is written, loaded, and does two guided steps in bfloat16.

`python -m benchmarks.full_size [FOLDER]` needs 6 GB of disk and under 12 GB of memory; each part runs in a process of
its own, so that the memory of each is seen.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MOST_GIB = 12.0


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


def watched(part: Callable[[str], None], folder: str, memory: multiprocessing.Queue[float]) -> None:
    part(folder)
    memory.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="where to write; a temporary folder if left out")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        context = multiprocessing.get_context("spawn")
        for part in (write, sample):
            print(f"{part.__name__}:", flush=True)
            memory = context.Queue()
            process = context.Process(target=watched, args=(part, folder or temporary, memory))
            process.start()
            process.join()
            assert process.exitcode == 0, f"{part.__name__} failed"
            most = memory.get()
            print(f"  {most:.1f} GiB at most", flush=True)
            assert most < MOST_GIB, f"{part.__name__} needs more than {MOST_GIB} GiB"


if __name__ == "__main__":
    main()
