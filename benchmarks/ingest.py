"""How fast real pictures become pairs: the job on a fabricated tree, and where the time of one process goes.

    python -m benchmarks.ingest --pictures 5000

Fabricates Pascal VOC's layout (500 x 375 JPEG with noise, palette masks), ingests it, and then reads a part of it step
by step in this process. The job's own lines tell its rate from the first batch to the last.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from models.labels import VOC
from pipeline.base.config import Workers
from pipeline.cluster.connection import cluster
from pipeline.datasets.builtin import BuiltinScenes
from pipeline.datasets.voc import PascalVOC
from pipeline.ingest import IngestConfig, ingest
from pipeline.pictures.codec import decode_mask, encode_mask
from pipeline.pictures.masks import check_mask
from pipeline.pictures.photograph import read_photograph
from pipeline.storage.files import read_bytes

SIZE = (500, 375)
NUM_TIMED = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = fabricate(Path(folder), arguments.pictures)
        began = time.perf_counter()
        with Memory() as memory, cluster():
            ingest(
                IngestConfig(
                    run="real",
                    runs=f"{folder}/runs",
                    dataset="voc",
                    root=str(tree),
                    split="train",
                    workers=Workers(num=arguments.workers),
                    log_every_s=5,
                )
            )
        seconds = time.perf_counter() - began
        manifest = json.loads(Path(f"{folder}/runs/real/manifest.json").read_text())
        steps = timed(tree)
    total = sum(steps.values())
    lines = [
        f"{manifest['num_pairs']} of {arguments.pictures} pictures of {SIZE[0]} x {SIZE[1]} in {seconds:.1f} s with "
        f"{arguments.workers} processes: {manifest['num_pairs'] / seconds:.0f} pictures/s, start and end included",
        f"one process, without Ray: {NUM_TIMED / total:.0f} pictures/s; of its time:",
        *(f"  {name:16} {value / total:6.1%}  {1e3 * value / NUM_TIMED:6.2f} ms" for name, value in steps.items()),
        "memory of all processes, at most: {:.0f} MB in the first half, {:.0f} MB in the second".format(
            *memory.halves()
        ),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


class Memory:
    """Resident memory of this process and all that it started, sampled once a second while the body runs."""

    def __init__(self) -> None:
        self.samples_mb: list[float] = []
        self._stop = threading.Event()

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def halves(self) -> tuple[float, float]:
        """The most in the first and in the second half of the time."""
        middle = len(self.samples_mb) // 2
        return max(self.samples_mb[:middle]), max(self.samples_mb[middle:])

    def _sample(self) -> None:
        while not self._stop.wait(1):
            mb = 0.0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                with suppress(psutil.Error):
                    info = process.memory_info()
                    mb += (info.rss - info.shared) / 1e6  # pages of the object store count once
            self.samples_mb.append(mb)


def fabricate(root: Path, num: int) -> Path:
    """A VOC tree: built-in scenes at VOC's size, with noise so that a JPEG has the weight of a photograph."""
    voc = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    scenes, rng = BuiltinScenes("train", 0, SIZE[0]), np.random.default_rng(0)
    distinct = [scenes(index) for index in range(50)]
    palette = [value for colour in VOC.palette for value in colour]
    stems = [f"2007_{number:06}" for number in range(num)]
    for number, stem in enumerate(stems):
        scene = distinct[number % len(distinct)]
        noise = rng.integers(-12, 12, (SIZE[1], SIZE[0], 1))
        image = np.clip(scene.image[: SIZE[1]].astype(int) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(voc / "JPEGImages" / f"{stem}.jpg", quality=90)
        mask = Image.fromarray(scene.mask[: SIZE[1]]).convert("P")
        mask.putpalette(palette)
        mask.save(voc / "SegmentationClass" / f"{stem}.png")
    (voc / "ImageSets/Segmentation/train.txt").write_text("\n".join(stems))
    return root / "VOCdevkit"


def timed(tree: Path) -> dict[str, float]:
    """Seconds of each step over NUM_TIMED pairs, the longest first."""
    steps: dict[str, float] = defaultdict(float)

    @contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        steps[name] += time.perf_counter() - began

    for entry in PascalVOC(str(tree), "train").entries().slice(0, NUM_TIMED).to_pylist():
        with step("read files"):
            image, encoded = read_bytes(entry["image"]), read_bytes(entry["mask"])
        with step("decode picture"):
            read_photograph(image, "")
        with step("decode mask"):
            mask = decode_mask(encoded, "")
        with step("check and count"):
            check_mask(mask, VOC, "")
        with step("encode mask"):
            encode_mask(mask)
    return dict(sorted(steps.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()
