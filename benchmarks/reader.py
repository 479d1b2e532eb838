"""How fast pairs are read for training, beside Hugging Face datasets: `python -m benchmarks.reader` (under a minute).

2,000 pairs of 256 px in four shards, in one process, from a disk that has them in memory. All give the same tensors,
image (3, H, W) uint8 and mask (H, W) int64, shuffled; both streams mix about 800 rows. The first 1,000 are timed: a
shuffled stream of `datasets` sleeps for five seconds when its source has ended, which says nothing of long ones.
"""

from __future__ import annotations

import datetime
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.cheap import CheapStage
from benchmarks.sampler import chip
from models.labels import GARMENTS
from pipeline.reader.pair_dataset import PairDataset
from pipeline.stages.pack import pack_pairs
from pipeline.tables.conform import conform
from pipeline.tables.ids import real_pair_id
from pipeline.tables.label_space import LABELS
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import list_shards, write_table

NUM_PAIRS, ROWS_PER_SHARD, SIZE_PX, REPEATS = 2000, 500, 256, 2
NUM_TIMED, NUM_COLD, MIXED_ROWS = 1000, 100, 800


def main() -> None:
    logging.getLogger("datasets").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        fabricate(folder)
        pairs = PairDataset(folder)
        readers: dict[str, Callable[[], Iterable[Any]]] = {
            "stream": lambda: pairs.stream(window_groups=MIXED_ROWS // 100),
            "datasets, streaming": lambda: streamed(folder),
            "by index, set in memory": lambda: by_index(pairs, NUM_TIMED),
            "by index, set too large for it": lambda: by_index(PairDataset(folder, cache_mb=0), NUM_COLD),
            "datasets, by index": lambda: map(tensors, converted(folder).shuffle(seed=0)),
        }
        for index in range(0, NUM_PAIRS, 100):
            pairs[index]  # so that "in memory" is true
        converted(folder)  # as `datasets` does once, before anything is read by index
        print(f"{datetime.date.today()}  {chip(torch.device('cpu'))}  {' '.join(sys.orig_argv)}")
        print(f"{NUM_PAIRS} pairs of {SIZE_PX} px, one process, the best of {REPEATS}")
        print(f"{'':32} {'examples/s':>10} {'CPU ms each':>12}")
        for name, examples in readers.items():
            wall_s, cpu_s = (min(values) for values in zip(*(timed(examples()) for _ in range(REPEATS)), strict=True))
            print(f"{name:32} {1 / wall_s:10.0f} {1000 * cpu_s:12.2f}")


def fabricate(folder: str) -> None:
    make = CheapStage(SIZE_PX, wait_s=0.0, smooth=False)
    for first in range(0, NUM_PAIRS, ROWS_PER_SHARD):
        seed = np.random.default_rng(first).integers(0, SIZE_PX**2, ROWS_PER_SHARD)
        packed = pack_pairs(make({"seed": seed}))
        packed["pair_id"] = np.array([real_pair_id("crops", str(first + row)) for row in range(ROWS_PER_SHARD)], object)
        packed["origin"] = np.full(ROWS_PER_SHARD, "real", object)
        write_table(conform(pa.table(packed), PAIR), f"{folder}/shards")
    GARMENTS.save(Path(folder) / LABELS)


def by_index(pairs: PairDataset, num: int) -> Iterable[Any]:
    return (pairs[index] for index in torch.randperm(len(pairs))[:num].tolist())


def streamed(folder: str) -> Iterable[Any]:
    from datasets import load_dataset

    found = load_dataset("parquet", data_files=list_shards(folder), split="train", streaming=True)
    return map(tensors, found.shuffle(seed=0, buffer_size=MIXED_ROWS))


def converted(folder: str) -> Any:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    return load_dataset("parquet", data_files=list_shards(folder), split="train", cache_dir=f"{folder}/cache")


def tensors(row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What PairDataset gives, from the pictures that `datasets` decodes."""
    image = torch.from_numpy(np.array(row["image"].convert("RGB"))).permute(2, 0, 1).contiguous()
    return image, torch.from_numpy(np.array(row["mask"]).astype(np.int64))


def timed(examples: Iterable[Any]) -> tuple[float, float]:
    """Seconds an example, of the clock and of the processor, all threads."""
    began, began_cpu = time.perf_counter(), time.process_time()
    num = sum(1 for _ in islice(examples, NUM_TIMED))
    return (time.perf_counter() - began) / num, (time.process_time() - began_cpu) / num


if __name__ == "__main__":
    main()
