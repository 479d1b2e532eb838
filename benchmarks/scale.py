"""How generation grows: the real graph with a sampler of cheap pictures, and what memory, time and disk it takes.

`python -m benchmarks.scale --rows 10000 100000`, and `python -m benchmarks.scale --rows 1000000 --size-px 64 --scores`.
Memory is that of processes without what they share (the object store is counted apart); the driver is this process.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import ray
import torch

import pipeline.generate
from benchmarks.cheap import cheap_sampler
from benchmarks.never_wait import BUNDLE
from benchmarks.sampler import chip
from models.reverse import SamplerSettings
from models.weights import ENCODERS, JOINT, digest
from pipeline.base.config import Workers
from pipeline.cluster.connection import cluster
from pipeline.cluster.finish import scan
from pipeline.cluster.todo import find_work, load_prompts
from pipeline.curate import CurateConfig, curate
from pipeline.generate import GenerateConfig, generate
from pipeline.score import ScoreConfig, score
from pipeline.stages.refine import Refine
from pipeline.tables.label_space import load_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument("--size-px", type=int, default=512)
    parser.add_argument("--image-format", default="jpeg")
    parser.add_argument("--shard-mb", type=int, default=384)
    parser.add_argument("--object-store-gib", type=float, default=2)
    parser.add_argument("--photographs", action="store_true", help="crops of one, which cost more than gradients")
    parser.add_argument("--scores", action="store_true", help="score the pairs and choose among them, too")
    parser.add_argument("--folder", default="", help="default: a temporary one")
    options = parser.parse_args()
    print(f"{datetime.date.today()}  {chip(torch.device('cpu'))}  {' '.join(sys.orig_argv)}")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="benchmark"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"] = str(int(options.object_store_gib * 2**30))
    pipeline.generate.make_sampler = cheap_sampler(options.size_px, 0.0, not options.photographs)
    try:
        for rows in options.rows:
            with cluster():
                measure(folder, rows, options)
    finally:
        if not options.folder:
            shutil.rmtree(folder)


def measure(folder: Path, rows: int, options: argparse.Namespace) -> None:
    """One run of `rows` pairs, and what is left of it afterwards."""
    # A tenth as many prompts as pairs: a plan repeats them.
    (folder / "prompts.txt").write_text("\n".join(f"a red bag number {number} on fur" for number in range(rows // 10)))
    config = GenerateConfig.model_validate(
        {
            "run": f"rows-{rows}",
            "runs": str(folder),
            "bundle": BUNDLE,
            "prompts": str(folder / "prompts.txt"),
            "pairs": rows,
            "sampler": SamplerSettings(batch_size=16 if options.size_px > 128 else 64),
            "refine": Refine(),
            "image_format": options.image_format,
            "shard_mb": options.shard_mb,
            "workers": Workers(cpus=0.5),
            "refine_on": Workers(num=2),
        }
    ).resolved()
    with Memory() as memory:
        began = time.perf_counter()
        manifest = generate(config)
        seconds = time.perf_counter() - began
    assert (manifest.num_pairs, manifest.num_duplicates) == (rows, 0)
    sizes = sorted(shard.bytes / 1e6 for shard in manifest.shards)
    left_s = time_to_find_what_is_left(config)
    print(
        f"{rows:,} rows of {options.size_px} px, {options.image_format}: {seconds:.0f} s, {rows / seconds:.0f} rows/s"
    )
    print(f"  shards: {len(sizes)}, {sizes[0]:.0f} to {sizes[-1]:.0f} MB, median {sizes[len(sizes) // 2]:.0f} MB")
    memory.show()
    print(f"  what is left is found in {left_s:.1f} s; the manifest in {time_of_manifest(config):.1f} s")
    if options.scores:
        measure_scores(folder, rows)


def measure_scores(folder: Path, rows: int) -> None:
    """Scores that need nothing else of a run of `rows` pairs, by two processes, and a selection by them."""
    common = {"runs": str(folder), "pairs": str(folder / f"rows-{rows}")}
    workers = Workers(num=2, cpus=0.5, threads=1)
    scores = ScoreConfig.model_validate({"run": f"scores-{rows}", "kinds": ["plain"], "workers": workers, **common})
    rules = {"best": {"sharpness": 0.8}, "most_per_class": rows // 2}
    chosen = {"run": f"chosen-{rows}", "scores": str(scores.folder), "rules": rules, **common}
    for name, job in (
        ("scored", lambda: score(scores)),
        ("chosen among", lambda: curate(CurateConfig.model_validate(chosen))),
    ):
        with Memory() as memory:
            began = time.perf_counter()
            job()
            seconds = time.perf_counter() - began
        print(f"{rows:,} rows {name}: {seconds:.0f} s, {rows / seconds:.0f} rows/s")
        memory.show()


def time_to_find_what_is_left(config: GenerateConfig) -> float:
    """Seconds from reading the prompts to knowing that nothing, or one row, is to be made."""
    began = time.perf_counter()
    work = find_work(
        load_prompts(config.prompts, load_labels(config.bundle)),
        str(config.folder),
        num_pairs=config.pairs,
        retry_errors=False,
        run_seed=config.seed,
        bundle_digest=digest(config.bundle, ENCODERS + JOINT),
        sampler_settings=config.provenance(),
    )
    assert work.todo == 0
    return time.perf_counter() - began


def time_of_manifest(config: GenerateConfig) -> float:
    """Seconds to derive the manifest."""
    began = time.perf_counter()
    ray.get(ray.remote(scan).remote(str(config.folder)))
    return time.perf_counter() - began


def kind_of(name: str) -> str:
    """What a process of Ray is, from its title, which changes with the task that a worker has."""
    if "Cheap" in name:
        return "sampler"
    return "a worker" if name.startswith("ray::") else re.sub(r"^.*/", "", name)


class Memory:
    """Peak memory of the driver and of every kind of Ray process while the body runs, twice a second."""

    def __enter__(self) -> Memory:
        self.peaks: Counter[str] = Counter()
        self.store_bytes = self.spilled_bytes = 0
        self._samples: list[tuple[str, int]] = []
        self._ends: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        middle = self._ends[len(self._ends) // 2] if self._ends else 0
        self.halves = {
            name: tuple(
                max((size for found, size in part if found == name), default=0)
                for part in (self._samples[:middle], self._samples[middle:])
            )
            for name in self.peaks
        }

    def show(self) -> None:
        """Prints what was seen."""
        print(f"  spilled: {self.spilled_bytes / 1e6:.0f} MB; object store at most {self.store_bytes / 1e6:.0f} MB")
        for name, peak in sorted(self.peaks.items(), key=lambda item: -item[1])[:8]:
            early, late = self.halves[name]
            print(
                f"  {name:32} {peak / 1e6:6.0f} MB at most; first half {early / 1e6:.0f}, second half {late / 1e6:.0f}"
            )

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    memory, name = process.memory_info(), " ".join(process.cmdline()[:1])
                except psutil.Error:
                    continue
                kind = "driver" if process.pid == os.getpid() else kind_of(name)
                own = memory.rss - memory.shared
                self.peaks[kind] = max(self.peaks[kind], own)
                self._samples.append((kind, own))
            self._ends.append(len(self._samples))
            stores = ray._private.internal_api.get_memory_info_reply(
                ray._private.internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
            ).store_stats
            self.store_bytes = max(self.store_bytes, stores.object_store_bytes_used)
            self.spilled_bytes = max(self.spilled_bytes, stores.spilled_bytes_total)


if __name__ == "__main__":
    main()
