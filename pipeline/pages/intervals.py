"""The rows of a proof beside each other: where each lies on one axis, and how sure that is. The page draws them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.evaluation.metrics import mean_and_spread
from pipeline.evaluation.results import Proof
from pipeline.pages.chart import even, short


@dataclass(frozen=True)
class Mark:
    """A row; places are in per cent of the axis.

    Attributes:
        name: of the row.
        place: of its mean.
        seeds: where its standard deviation over seeds begins, and how wide it is; None of one seed.
        drawn: the same of what it is when the pictures of the test are drawn anew; None where nobody looked.
        text: its mean, in per cent.
    """

    name: str
    place: float
    seeds: tuple[float, float] | None
    drawn: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class Intervals:
    """What the page needs to draw: ticks are (place, text), and the first row is what the others are compared with."""

    marks: list[Mark]
    ticks: list[tuple[float, str]]

    @property
    def has_seeds(self) -> bool:
        return any(one.seeds for one in self.marks)

    @property
    def has_drawn(self) -> bool:
        return any(one.drawn for one in self.marks)


def intervals(proof: Proof) -> Intervals | None:
    """mIoU of the rows that may be compared with the first; None where there are no two."""
    rows = [one for one in proof.sets if one.steps == proof.sets[0].steps]
    if len(rows) < 2:
        return None
    found = [mean_and_spread([100 * value for value in one.miou]) for one in rows]
    bounds = [
        [mean - spread, mean + spread, *(100 * one for one in row.interval or ())]
        for row, (mean, spread) in zip(rows, found, strict=True)
    ]
    ticks = even(min(map(min, bounds)), max(map(max, bounds)))
    low, high = ticks[0], ticks[-1]

    def place(value: float) -> float:
        return 100 * (value - low) / ((high - low) or 1)

    def reach(start: float, stop: float) -> tuple[float, float]:
        return place(start), place(stop) - place(start)

    marks = [
        Mark(
            row.name,
            place(mean),
            reach(mean - spread, mean + spread) if len(row.miou) > 1 else None,
            reach(100 * row.interval[0], 100 * row.interval[1]) if row.interval else None,
            f"{mean:.1f}",
        )
        for row, (mean, spread) in zip(rows, found, strict=True)
    ]
    return Intervals(marks, [(place(one), short(one)) for one in ticks])
