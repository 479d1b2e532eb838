"""The table and the curves of a proof, for the page, for a bundle's card and as Markdown for wherever else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.evaluation.metrics import mean_and_spread
from pipeline.evaluation.results import Difference, Proof, TrainedSet
from pipeline.evaluation.spread import least_gains
from pipeline.pages.chart import NUM_COLOURS, Chart, Series, plane


class Row(NamedTuple):
    """A row of the table, in shares of one.

    Attributes:
        set: what it is of.
        mean, spread: of mIoU over seeds.
        ratio: of its mIoU to the first row's; None where they may not be compared, having other steps.
        difference: mean and spread over seeds of the difference to the first row; None for that row and as `ratio`.
        least: what the difference is above with 97.5 % certainty, for other seeds and other test pictures; None of one
            seed or of one picture.
        ious: mean IoU by class, None where no seed has one.
        rare: mean and standard deviation of the mean IoU of the rare classes; None where none are named.
    """

    set: TrainedSet
    mean: float
    spread: float
    ratio: float | None
    difference: tuple[float, float] | None
    least: float | None
    ious: list[float | None]
    rare: tuple[float, float] | None = None


def rows_of(proof: Proof) -> list[Row]:
    """Those of a proof, in its order."""
    reference = proof.sets[0]
    first, _ = mean_and_spread(reference.miou)
    rows = []
    for one in proof.sets:
        mean, spread = mean_and_spread(one.miou)
        known = [[value for value in one.iou.get(name, []) if value is not None] for name in proof.classes]
        alike = one.steps == reference.steps
        rows.append(
            Row(
                one,
                mean,
                spread,
                mean / first if first and alike else None,
                mean_and_spread(one.difference.miou) if one.difference and alike else None,
                _least(one.difference, proof) if one.difference and alike else None,
                [mean_and_spread(values)[0] if values else None for values in known],
                mean_and_spread(_of_rare(one, proof.rare)) if proof.rare else None,
            )
        )
    return rows


def _least(difference: Difference, proof: Proof) -> float | None:
    return least_gains([difference], proof.test.units)[0] if len(difference.miou) > 1 and proof.test.units > 1 else None


def _of_rare(one: TrainedSet, rare: Sequence[str]) -> list[float]:
    """By seed, the mean IoU of the rare classes that occur."""
    by_seed = zip(*(one.iou[name] for name in rare), strict=True)
    found = [[value for value in values if value is not None] for values in by_seed]
    return [sum(values) / len(values) if values else math.nan for values in found]


def markdown(proof: Proof) -> str:
    """The table with what was compared and how."""
    seeds, first, test = len(proof.seeds), proof.sets[0], proof.test
    lines = [
        f"The same segmenter, trained on each set and tested on {test.pairs:,} real held-out pairs"
        f"{f' of {test.units:,} {test.unit}' if test.unit == 'photographs' else ''}; "
        f"{f'mean and standard deviation over {seeds} seeds' if seeds > 1 else 'one seed, so without a spread'}. "
        "Rows of different steps are not to be compared.",
    ]
    if any(row.interval for row in proof.sets):
        lines.append(
            f"In brackets: 95 % of the figures lie between, when the {test.unit} of the test are drawn anew "
            f"(bootstrap; the trainings stay as they are); a difference is to “{first.name}”, of equal seeds and draws."
        )
    if any(row.labels for row in proof.sets):
        lines.append(
            "Labels are all masks that anything behind a row has learned from, its generator and its teacher too; “?” "
            "is not known. Neither masks of validation pairs, by which something was chosen, nor captions are counted."
        )
    if any(row.least is not None for row in rows_of(proof)):
        lines.append(
            f"“At least”: what a difference is above with 97.5 % certainty, for other seeds and other {test.unit}, "
            "each row by itself; where it is below zero, no gain is shown."
        )
    if any(row.seconds for row in proof.sets):
        lines.append("Minutes are of the segmenters behind a row, its teacher's too; a generator's are not in them.")
    if proof.choices:
        best = max(proof.choices, key=lambda one: one.mean)
        tries = {(one.steps, one.learning_rate, one.augmentation) for one in proof.choices}
        several = len({augmentation for _, _, augmentation in tries}) > 1
        what = "Steps, learning rate and augmentation" if several else "Steps and learning rate"
        lines.append(
            f"{what} were chosen on validation pairs, with "
            f"“{first.name}” alone, from {_count(len(tries), 'try', 'tries')} of "
            f"{_count(len(best.miou), 'seed')} each; the best reached {best.mean:.4f} with {best.steps:,} steps"
            f"{f', {best.augmentation} augmentation' if several else ''}."
        )
    lines += [f"**Mind:** {text}." for text in proof.warnings]
    scales = bool(first.miou_multi_scale)
    heads = ["labels", "pictures without masks", "pairs", "steps", "mIoU", f"of {first.name}", "difference", "at least"]
    heads += [
        "boundary IoU",
        *(["several scales"] if scales else []),
        *([", ".join(proof.rare)] if proof.rare else []),
        "minutes",
    ]
    lines += ["", f"| trained on | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    lines += [_line(row, scales) for row in rows_of(proof)]
    if proof.agreement:
        lines += [
            "",
            f"Generated masks agree with what a segmenter of {proof.agreement.judge} pairs sees in their images:",
            f"mIoU {proof.agreement.miou:.4f}, {100 * proof.agreement.pixel_accuracy:.1f} % of the pixels.",
        ]
        if proof.agreement.class_accuracy is not None:
            lines.append(f"Where both see an object, {100 * proof.agreement.class_accuracy:.1f} % have one class.")
        if proof.agreement.sharpness is not None:
            lines.append(f"Generated images are {proof.agreement.sharpness:.2f} as sharp as the test's.")
    for match in proof.prompt_match.values():
        lines.append(f"{100 * match:.1f} % of the masks hold exactly the classes that their prompt names.")
    return "\n".join(lines)


def charts_of(proof: Proof) -> list[Chart]:
    """mIoU over steps, by the learning rates that were tried on validation pairs; and over pairs, for sets of the same
    folders. None of what has one point alone."""
    over_steps: dict[str, Series] = {}
    for one in sorted(proof.choices, key=lambda one: one.steps):
        if one.augmentation != proof.choices[0].augmentation:
            continue
        over_steps.setdefault(f"rate {one.learning_rate:g}", []).append((float(one.steps), 100 * one.mean))
    over_pairs: dict[str, list[TrainedSet]] = {}
    for row in sorted(proof.sets, key=lambda row: row.pairs):
        if not row.unlabelled:
            alike = {key: value for key, value in row.trained_on.items() if key != "slices"} or row.folders
            over_pairs.setdefault(str(alike), []).append(row)
    names: dict[str, Series] = {}
    spreads: dict[str, list[float]] = {}
    for group in over_pairs.values():
        if len({row.pairs for row in group}) == len(group) > 1:
            found = [mean_and_spread([100 * value for value in row.miou]) for row in group]
            name = group[0].name
            names[name] = [(float(row.pairs), mean) for row, (mean, _) in zip(group, found, strict=True)]
            spreads[name] = [spread for _, spread in found]
    wanted = [
        (f"Steps of “{proof.sets[0].name}”", "optimiser steps", "validation mIoU, %", over_steps, {}),
        ("Numbers of pairs", "pairs", "test mIoU, %", names, spreads),
    ]
    return [_chart(*one) for one in wanted if any(len(points) > 1 for points in one[3].values())]


def _chart(title: str, x_label: str, y_label: str, lines: dict[str, Series], spreads: dict[str, list[float]]) -> Chart:
    some = dict(list(lines.items())[:NUM_COLOURS])
    drawn = plane(some, {}, {name: each for name, each in spreads.items() if name in some})
    return Chart(
        title, f"{y_label} over {x_label}", x_label, y_label, drawn.lines, drawn.x_ticks, drawn.y_ticks, [], []
    )


def _line(row: Row, multi_scale: bool) -> str:
    one = row.set
    between = "" if one.interval is None else f" [{one.interval[0]:.3f}, {one.interval[1]:.3f}]"
    apart = ""
    if row.difference and one.difference:
        mean, spread = row.difference
        apart = f"{mean:+.4f}{_spread(one, spread)}"
        if moved := one.difference.interval:
            apart += f" [{moved[0]:+.3f}, {moved[1]:+.3f}]"
    cells = [
        one.name,
        "?" if one.labels is None else f"{one.labels:,}",
        f"{one.unlabelled:,}" if one.unlabelled else "",
        f"{one.pairs:,}",
        f"{one.steps:,}",
        f"{row.mean:.4f}{_spread(one, row.spread)}{between}",
        "other steps" if row.ratio is None else f"{row.ratio:.3f}",
        apart,
        "" if row.least is None else f"{row.least:+.4f}",
        _mean(one.boundary_iou),
        *([_mean(one.miou_multi_scale)] if multi_scale else []),
        *([f"{row.rare[0]:.4f}{_spread(one, row.rare[1])}"] if row.rare else []),
        f"{sum(one.seconds) / len(one.seconds) / 60:.1f}" if one.seconds else "",
    ]
    return f"| {' | '.join(cells)} |"


def _spread(one: TrainedSet, spread: float) -> str:
    return f" ± {spread:.4f}" if len(one.miou) > 1 else ""


def _mean(values: list[float]) -> str:
    return f"{mean_and_spread(values)[0]:.4f}" if values else ""


def _count(number: int, noun: str, several: str = "") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {several or f'{noun}s'}"
