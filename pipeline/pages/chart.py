"""Charts of lines, such as a training's losses, as places on a plane: the page draws them, this computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

WIDTH, HEIGHT = 620, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 128, 12, 44
"""Room around the plot: for numbers, for the names at the ends of lines, and for what the axis counts."""
LABEL_GAP = 16
"""Least distance of two names."""
NUM_COLOURS = 7
MAX_PLACES = 150
"""Places a line has at most; more points become means, or noise would be all that shows."""
LOG_FROM = 12.0
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""
FAR_OFF = 50.0
"""Ratio of a part to the whole from which it would only flatten the others, as KL terms of a tiny weight do."""
NOT_LOSSES = frozenset(
    {
        "data_wait_share",
        "examples",
        "examples_per_s",
        "gradient_norm",
        "learning_rate",
        "memory_gib",
        "seconds",
        "step",
        "validation",
        "workers",
    }
)

Series = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """What its name is, its colour's number from 0, and its path in SVG's words; `dots` are places of another line
    beside it, such as held-out losses, and `band` the area of its spread."""

    name: str
    colour: int
    path: str
    dots: list[tuple[float, float]]
    band: str
    label_y: float
    last: str


@dataclass(frozen=True)
class Chart:
    """What the page needs to draw. Ticks are (place in pixels, text)."""

    title: str
    description: str
    """What a reader who cannot see it is told."""
    x_label: str
    y_label: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    scores: list[tuple[str, str]]
    """The latest held-out scores that are not drawn."""
    far_off: list[tuple[str, str]]
    """The latest values of parts that are too large to be drawn."""


def losses_chart(title: str, points: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The chart of a history (pipeline.runs.history), or None where it holds no two losses of any kind."""
    training = _series(points)
    held_out = _series([{"examples": point["examples"], **point.get("validation", {})} for point in points])
    several = [name for name, series in training.items() if len(series) > 1]
    if not several:
        return None
    most = FAR_OFF * max(value for _, value in training[several[0]])
    names = [name for name in several if training[name][-1][1] <= most or name == several[0]][:NUM_COLOURS]
    drawn = plane({name: _thinned(training[name]) for name in names}, held_out)
    latest: Mapping[str, Any] = next((point["validation"] for point in reversed(points) if point.get("validation")), {})
    others = {name: value for name, value in latest.items() if name not in several and "/" not in name}
    scores = [(name, short(value)) for name, value in others.items() if _is_number(value)]
    far_off = [(name, short(training[name][-1][1])) for name in several if name not in names]
    last_x = max(x for name in names for x, _ in training[name] + held_out.get(name, []))
    return Chart(
        title,
        f"losses of {title} over {last_x:,.0f} examples",
        "examples seen",
        f"loss{', logarithmic' if drawn.logarithmic else ''}",
        drawn.lines,
        drawn.x_ticks,
        drawn.y_ticks,
        scores,
        far_off,
    )


class Plane(NamedTuple):
    """Lines and ticks of a chart."""

    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    logarithmic: bool


def plane(
    series: Mapping[str, Series],
    dots: Mapping[str, Series],
    spreads: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Plane:
    """Places lines of positive x on a plane that holds all of them.

    Args:
        series: name -> points, at least one, by ascending x.
        dots: name of a line -> points of another line beside it.
        spreads: name of a line -> how far its points may lie above and below.
    """
    shown = [value for name in series for _, value in [*series[name], *dots.get(name, [])]]
    shown += [
        value + sign * spread
        for name, each in spreads.items()
        for (_, value), spread in zip(series[name], each, strict=True)
        for sign in (-1, 1)
    ]
    low, high = min(shown), max(shown)
    logarithmic = low > 0 and high / low > LOG_FROM
    last_x = max(x for name in series for x, _ in [*series[name], *dots.get(name, [])])
    if logarithmic:
        y_values = _decades(low, high)
        bottom, top = 0.9 * low, 1.1 * high  # no line on the frame
    else:
        y_values = even(low if low > high / 2 else min(0.0, low), high)
        bottom, top = y_values[0], y_values[-1]
    scale = math.log if logarithmic else float

    def place_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / last_x

    def place_y(y: float) -> float:
        share = (scale(y) - scale(bottom)) / ((scale(top) - scale(bottom)) or 1.0)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    def path(points: Sequence[tuple[float, float]]) -> str:
        places = [f"{place_x(x):.1f} {place_y(y):.1f}" for x, y in points]
        return f"M{' L'.join(places * 2 if len(places) == 1 else places)}" if places else ""  # one: a dot

    def band(name: str) -> str:
        if name not in spreads:
            return ""
        points = list(zip(series[name], spreads[name], strict=True))
        above, below = ([(x, y + sign * far) for (x, y), far in points] for sign in (1, -1))
        return f"{path(above + below[::-1])} Z"

    ends = _apart([place_y(points[-1][1]) for points in series.values()])
    lines = [
        Line(
            name,
            number,
            path(points),
            [(place_x(x), place_y(y)) for x, y in dots.get(name, [])],
            band(name),
            end,
            short(points[-1][1]),
        )
        for number, ((name, points), end) in enumerate(zip(series.items(), ends, strict=True))
    ]
    x_ticks = [(place_x(x), short(x)) for x in even(0.0, last_x, inside=True)]
    return Plane(lines, x_ticks, [(place_y(y), short(y)) for y in y_values], logarithmic)


def _series(points: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Name -> (examples, value) of every number that may be a loss, but for those of some examples ("image/late"); the
    total first."""
    found: dict[str, Series] = {"loss": []}
    for point in points:
        for name, value in point.items():
            if name not in NOT_LOSSES and "/" not in name and _is_number(value):
                found.setdefault(name, []).append((float(point["examples"]), float(value)))
    return {name: series for name, series in found.items() if series}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _thinned(series: Series) -> Series:
    """At most MAX_PLACES means of neighbours."""
    size = math.ceil(len(series) / MAX_PLACES)
    parts = [series[start : start + size] for start in range(0, len(series), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def even(low: float, high: float, inside: bool = False) -> list[float]:
    """About five round numbers from `low` on, to the first that is not below `high`, or the last not above."""
    step_from = (high - low) / 5 or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(step_from))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step_from * 0.999)
    first, count = math.floor(low / step + 1e-9), (high / step + 1e-9) if inside else math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, math.floor(count) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between two values, with 2 and 5 between them where few are."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 3 else (1, 3) if len(powers) <= 4 else (1,)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in values if low <= value <= high] or [low, high]


def _apart(places: list[float]) -> list[float]:
    """The same places, moved as little as it takes for names at them not to overlap, inside the plot."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, here in pairwise(order):
        moved[here] = max(moved[here], moved[before] + LABEL_GAP)
    limit: float = HEIGHT - BOTTOM
    for here in reversed(order):
        moved[here] = min(moved[here], limit)
        limit = moved[here] - LABEL_GAP
    return moved


def short(number: float) -> str:
    """Three digits in little room: "0.0412", "350", "20k", "1.5M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
