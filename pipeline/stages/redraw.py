"""Pairs whose mask does not hold exactly the classes that were asked for are drawn again, a bounded number of times."""

from __future__ import annotations

from collections import deque

import numpy as np

from pipeline.prompts.classes import named_classes
from pipeline.stages.refine import refine_mask
from pipeline.stages.sample import SamplePairs
from pipeline.tables.ids import redraw_seed
from pipeline.tables.schema import Batch

BATCHES = 4
"""Batches of the sampler that a call takes at once, so that pairs that are drawn again share theirs."""


class SampleUntilExact:
    """Stage: as `SamplePairs` for any number of rows, and adds `draws`, (B,) int32: how often each was drawn.

    A pair stays whose mask, refined, holds exactly the classes of `prompt_class_ids`, or where these are not known
    those that the prompt names; background and pixels of no known class aside. Any other one is drawn again with noise
    of its own (`redraw_seed`), and its last draw stays whatever it holds, or the one before where the last is not
    finite. Prompts that name no class are drawn once, and rows that fail are not drawn again. What a row becomes
    follows from its prompt and seed, whatever it is sampled with.

    Args:
        sample: draws.
        refine: `min_area_px` and `fill_holes_px` of `refine_mask`, as they are applied afterwards.
        redraws: draws of a pair after the first one, at most.
    """

    def __init__(self, sample: SamplePairs, refine: dict[str, int], redraws: int) -> None:
        self.sample, self.refine, self.redraws = sample, refine, redraws

    def __call__(self, batch: Batch) -> Batch:
        labels, size = self.sample.sampler.bundle.encoders.labels, self.sample.sampler.settings.batch_size
        number = len(batch["prompt"])
        known = batch.get("prompt_class_ids", [None] * number)
        asked = [
            named_classes({"prompt": prompt, "prompt_class_ids": None if ids is None else list(ids)}, labels)
            for prompt, ids in zip(batch["prompt"], known, strict=True)
        ]
        draws = np.zeros(number, np.int32)
        kept: Batch = {}
        waiting = deque(range(number))
        while waiting or not kept:  # no rows at all have columns too
            rows = [waiting.popleft() for _ in range(min(size, len(waiting)))]
            part = {name: values[rows] for name, values in batch.items()}
            part["seed"] = np.array([redraw_seed(int(batch["seed"][row]), int(draws[row])) for row in rows], np.int64)
            made = self.sample(part)
            draws[rows] += 1
            # What is not finite never will be; what failed otherwise may be drawn another time, so that it is an error.
            taken = (draws[rows] == 1) | (made["error"] != "non_finite_latent")
            places = np.array(rows, np.int64)[taken]
            for name, values in made.items():
                kept.setdefault(name, np.empty((number, *values.shape[1:]), values.dtype))[places] = values[taken]
            waiting.extend(
                row
                for row, mask, error in zip(rows, made["mask"], made["error"], strict=True)
                if asked[row] and not error and draws[row] <= self.redraws and self._seen(mask) != asked[row]
            )
        return {**kept, "seed": batch["seed"], "draws": draws}

    def _seen(self, mask: np.ndarray) -> set[int]:
        ignored = self.sample.sampler.bundle.encoders.labels.ignore_index
        refined = refine_mask(mask, **self.refine, ignore_index=ignored)
        return set(np.unique(refined).tolist()) - {0, ignored}
