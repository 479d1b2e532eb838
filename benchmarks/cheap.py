"""A sampler that costs a chosen time and makes pictures of any size, to measure everything around a sampler."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets.builtin import ASSETS
from pipeline.stages.pack import refine_and_pack
from pipeline.tables.schema import Batch


class CheapStage:
    """Stage: as SamplePairs, but images are crops of one photograph (or, with `smooth`, of a gradient, which costs
    little to encode), masks hold rectangles, and a batch takes `wait_s` a row.

    Args:
        size_px: side of the pictures.
        wait_s: seconds a row, in which the processor is free, as it is while a GPU works.
        smooth: gradients.
    """

    def __init__(self, size_px: int, wait_s: float, smooth: bool) -> None:
        side = 2 * size_px
        if smooth:
            ramp = np.linspace(0, 255, side, dtype=np.uint8)
            self.scene = np.stack(
                [np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.full((side, side), 9)], 2
            )
            self.scene = self.scene.astype(np.uint8)
        else:
            photograph = sorted(ASSETS.rglob("*.jpg"))[0]
            self.scene = np.array(Image.open(photograph).convert("RGB").resize((side, side)))
        self.size_px, self.wait_s = size_px, wait_s

    def __call__(self, batch: Batch) -> Batch:
        began, size, count = time.perf_counter(), self.size_px, len(batch["seed"])
        image = np.empty((count, size, size, 3), np.uint8)
        mask = np.zeros((count, size, size), np.uint8)
        for row, seed in enumerate(batch["seed"]):
            top, left = int(seed) % size, int(seed) // size % size
            image[row] = self.scene[top : top + size, left : left + size]
            mask[row, top // 2 : top // 2 + size // 3, left // 2 : left // 2 + size // 3] = 1 + int(seed) % 8
        time.sleep(max(0.0, self.wait_s * count - (time.perf_counter() - began)))
        errors = np.full(count, "", object)
        return {
            **batch,
            "image": image,
            "mask": mask,
            "confidence": np.full((count, size, size), 255, np.uint8),
            "confidence_mean": np.ones(count, np.float32),
            "error": errors,
            "error_detail": errors,
        }


def slow_refine_and_pack(wait_s: float, batch: Batch, **settings: Any) -> Batch:
    """`refine_and_pack` for a task that takes `wait_s` a row, without the processor; what takes its place."""
    began = time.perf_counter()
    packed = refine_and_pack(batch, **settings)
    time.sleep(max(0.0, wait_s * len(batch["seed"]) - (time.perf_counter() - began)))
    return packed


def cheap_sampler(size_px: int, wait_s: float, smooth: bool) -> Callable[..., CheapStage]:
    """What takes the place of `pipeline.generate.make_sampler`."""

    def make(*_: object) -> CheapStage:
        return CheapStage(size_px, wait_s, smooth)

    return make
