"""Steps, learning rate and augmentation of a proof, chosen on validation pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pipeline.base.log import log
from pipeline.evaluation.metrics import mean_and_spread
from pipeline.evaluation.results import Choice
from pipeline.training.config import TrainingConfig
from pipeline.training.proving import Proving, require_scored
from pipeline.training.sets import TrainingSet, Varied

STOPPED_RISING = 0.005
"""mIoU by which a longer training must be better to be worth it, at least; where several seeds were tried, at least the
standard error of its mean too."""


def choose(
    proving: Proving, validation: str, steps: Sequence[int], rates: Sequence[float], seeds: int
) -> tuple[list[Choice], str]:
    """Tries lengths and learning rates with the first set and takes one, for all rows from then on.

    Args:
        proving: whose terms are set.
        validation: folder of real pairs that nothing is tested on.
        steps: lengths.
        rates: peaks of the learning rate with each.
        seeds: trainings of each.

    Returns:
        All that were tried, and what is to be said of the one that was taken: "" where it lies inside of what was
        tried.
    """
    first = proving.sets[proving.first]
    lengths = sorted(set(steps))
    trainings: dict[tuple[int, float], list[TrainingConfig]] = {}
    for num in lengths:
        for rate in rates or (proving.terms.learning_rate,):
            terms = replace(proving.terms, learning_rate=rate).of_steps(num)
            commons = [
                proving.common.model_copy(update={"validation": validation, "seed": seed}) for seed in range(seeds)
            ]
            # By what is tried, so that a rate that is given twice, or also as the recipe's, counts once.
            trainings[num, terms.optimisation().learning_rate] = [
                terms.training(common, first, f"choice-{num}", first.train, first.slices) for common in commons
            ]
    scores = iter(proving.fit_all([(one, first, "") for some in trainings.values() for one in some]))
    found = [
        Choice(steps=num, learning_rate=rate, miou=[next(scores)["miou"] for _ in some])
        for (num, rate), some in trainings.items()
    ]
    require_scored([one.mean for one in found], validation, "validation")
    best = {num: max((one for one in found if one.steps == num), key=lambda one: one.mean) for num in lengths}
    top = max(best.values(), key=lambda one: one.mean)
    close = max(STOPPED_RISING, mean_and_spread(top.miou)[1] / math.sqrt(len(top.miou)))
    taken = next(one for one in best.values() if one.mean >= top.mean - close)
    shorter = f": as good as {top.mean:.4f} with {top.steps} steps, to within {close:.4f}" if taken is not top else ""
    log.info(
        "chosen on validation: %d steps, learning rate %g (mIoU %.4f%s)",
        taken.steps, taken.learning_rate, taken.mean, shorter,
    )  # fmt: skip
    warnings = []
    if len(best) > 1 and taken.steps == max(best):
        warnings.append(
            f"with {taken.steps:,} steps, the most that were tried, “{proving.first}” is still better than with fewer: "
            "it may not have stopped rising"
        )
    known = sorted({one.learning_rate for one in found})
    if len(known) > 1 and taken.learning_rate in (known[0], known[-1]):
        warnings.append(f"the learning rate {taken.learning_rate:g} is at the edge of those that were tried")
    proving.terms = replace(proving.terms, learning_rate=taken.learning_rate).of_steps(taken.steps)
    return found, "; ".join(warnings)


def choose_augmentation(proving: Proving, validation: str, augmentations: Sequence[Varied], seeds: int) -> list[Choice]:
    """Tries ways to vary pictures with the first set, at the steps and rate of all rows, and takes the best for all
    sets that name none; of ways that are equal to within `STOPPED_RISING` the one that was given first.

    Args:
        proving: whose terms and sets are set.
        validation: folder of real pairs that nothing is tested on.
        augmentations: the ways.
        seeds: trainings of each.

    Returns:
        All that were tried, in this order.
    """
    steps = proving.terms.optimisation().num_steps
    rate = proving.terms.optimisation().learning_rate
    first = proving.sets[proving.first]
    tried: list[tuple[TrainingConfig, TrainingSet, str]] = []
    ways = list(dict.fromkeys(augmentations))
    for augmentation in ways:
        varied = first.model_copy(update={"augmentation": augmentation})
        for seed in range(seeds):
            common = proving.common.model_copy(update={"validation": validation, "seed": seed})
            one = proving.terms.training(common, varied, f"choice-{steps}", first.train, first.slices)
            tried.append((one, varied, ""))
    scores = iter(proving.fit_all(tried))
    found = [
        Choice(steps=steps, learning_rate=rate, augmentation=one, miou=[next(scores)["miou"] for _ in range(seeds)])
        for one in ways
    ]
    require_scored([one.mean for one in found], validation, "validation")
    top = max(one.mean for one in found)
    taken = next(one.augmentation for one in found if one.mean >= top - STOPPED_RISING)
    log.info("chosen on validation: augmentation %s", taken)
    proving.sets = {
        name: one.model_copy(update={"augmentation": one.augmentation or taken}) for name, one in proving.sets.items()
    }
    return found
