"""Mask refinement: the straightforward way against `pipeline.stages.refine`, on the same masks, in one run.

`python -m benchmarks.refine` (about 10 s). Straightforward means whole-image work for each component, as in the
reference. Times are process times of one thread; the results are asserted to be equal.
"""

from __future__ import annotations

import datetime
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline.stages.refine import refine_mask

SIZE_PX, NUM_CLASSES, MIN_AREA_PX, NO_IGNORE = 512, 21, 20, -1


def straightforward(mask: np.ndarray, min_area_px: int) -> np.ndarray:
    """(H, W) class ids in and out: JoDiffusion, "Mask optimisation", word by word."""
    mask = mask.copy()
    for class_id in np.unique(mask):
        if class_id == 0:
            continue
        labels, num_components = ndimage.label(mask == class_id)
        for label in range(1, num_components + 1):
            component = labels == label
            if component.sum() < min_area_px:
                ring = ndimage.binary_dilation(component, np.ones((3, 3), bool)) & ~component
                values, counts = np.unique(mask[ring], return_counts=True)
                mask[component] = values[counts.argmax()]
    return mask


def synthetic_mask(num_specks: int, *, seed: int) -> np.ndarray:
    """(512, 512) uint8: smooth regions of 21 classes with specks of 1 to 16 pixels strewn over them."""
    generator = np.random.default_rng(seed)
    fields = [ndimage.zoom(generator.standard_normal((6, 6)), SIZE_PX / 6, order=3) for _ in range(NUM_CLASSES)]
    mask: np.ndarray = np.argmax(fields, axis=0).astype(np.uint8)
    for _ in range(num_specks):
        top, left = generator.integers(0, SIZE_PX - 4, 2)
        height, width = generator.integers(1, 5, 2)
        mask[top : top + height, left : left + width] = generator.integers(0, NUM_CLASSES)
    return mask


def timed(function: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, float]:
    """The result, and the median process time of a call in ms."""
    times_ms = []
    for _ in range(repeats):
        start = time.process_time_ns()
        result = function()
        times_ms.append((time.process_time_ns() - start) / 1e6)
    return result, float(np.median(times_ms))


def cpu_model() -> str:
    """The processor's name, from /proc/cpuinfo where there is one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Prints the table."""
    print(f"{datetime.date.today()}, {cpu_model()}, one thread; {' '.join(sys.orig_argv)}")
    print(
        f"{SIZE_PX} x {SIZE_PX} masks, {NUM_CLASSES} classes, components below {MIN_AREA_PX} px absorbed; ms per mask\n"
    )
    print(f"{'specks':>6} {'changed px':>10} {'straightforward':>15} {'ours':>8} {'ratio':>7}")
    for num_specks, repeats in ((100, 3), (400, 3), (2000, 1)):
        mask = synthetic_mask(num_specks, seed=num_specks)
        expected, slow_ms = timed(partial(straightforward, mask, MIN_AREA_PX), repeats)
        ours = partial(refine_mask, mask, min_area_px=MIN_AREA_PX, ignore_index=NO_IGNORE)
        refined, fast_ms = timed(ours, repeats=100)
        np.testing.assert_array_equal(refined, expected)
        changed_px = np.count_nonzero(refined != mask)
        print(f"{num_specks:>6} {changed_px:>10} {slow_ms:>15.1f} {fast_ms:>8.2f} {slow_ms / fast_ms:>6.0f}x")


if __name__ == "__main__":
    main()
