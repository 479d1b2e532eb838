"""A chart shows each loss where it is, on axes with round numbers, whatever a history holds."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from pipeline.pages import chart
from pipeline.pages.chart import losses_chart


def history(losses: dict[str, list[float]], step: int = 100) -> list[dict]:
    values = zip(*losses.values(), strict=True)
    return [
        {"examples": step * (n + 1), "learning_rate": 1.0, **dict(zip(losses, v, strict=True))}
        for n, v in enumerate(values)
    ]


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_lines_go_down_as_losses_do_and_stay_inside():
    found = losses_chart("joint", history({"mask": [0.8, 0.5, 0.45], "loss": [1.0, 0.6, 0.5]}))
    assert found is not None and found.y_label == "loss" and found.description == "losses of joint over 300 examples"
    assert [(line.name, line.last) for line in found.lines] == [("loss", "0.5"), ("mask", "0.45")]
    for line in found.lines:
        xs, ys = zip(*places(line.path), strict=True)
        assert list(xs) == sorted(xs) and list(ys) == sorted(ys)
        assert min(xs) >= chart.LEFT and max(xs) == chart.WIDTH - chart.RIGHT
        assert min(ys) >= chart.TOP and max(ys) <= chart.HEIGHT - chart.BOTTOM
    assert [text for _, text in found.x_ticks] == ["0", "100", "200", "300"]
    assert [text for _, text in found.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_losses_that_span_much_get_a_logarithmic_axis():
    found = losses_chart("vae", history({"loss": [2.0, 0.2, 0.02]}, step=50_000))
    assert found is not None and found.y_label == "loss, logarithmic"
    assert [text for _, text in found.y_ticks] == ["0.03", "0.1", "0.3", "1"]
    first, middle, last = (y for _, y in places(found.lines[0].path))
    assert middle - first == pytest.approx(last - middle, abs=0.2)
    assert found.x_ticks[-1][1] == "150k"
    zero = losses_chart("vae", history({"loss": [2.0, 0.0]}))
    assert zero is not None and zero.y_label == "loss"


def test_held_out_scores_are_drawn_where_training_has_them():
    points = history({"loss": [1.0, 0.6, 0.5]})
    points[1]["validation"] = {"loss": 0.9, "miou": 0.5}
    points.append({"examples": 300, "validation": {"loss": 0.7, "miou": 0.98}})
    found = losses_chart("vae", points)
    assert found is not None
    assert len(found.lines[0].dots) == 2
    assert found.scores == [("miou", "0.98")]
    only = losses_chart("vae", [*points[:1], points[2], points[3]])
    assert only is not None and len(only.lines[0].dots) == 1


def test_a_part_that_would_flatten_the_others_is_told_and_not_drawn():
    found = losses_chart("vae", history({"loss": [1.0, 0.5], "kl": [1000.0, 1500.0]}))
    assert found is not None
    assert [line.name for line in found.lines] == ["loss"] and found.far_off == [("kl", "1.5k")]


def test_names_do_not_overlap():
    found = losses_chart("joint", history({name: [1.0, 0.5] for name in ("loss", "image", "mask", "text")}))
    assert found is not None
    ends = sorted(line.label_y for line in found.lines)
    assert all(after - before >= chart.LABEL_GAP for before, after in pairwise(ends))
    assert ends[-1] <= chart.HEIGHT - chart.BOTTOM


def test_long_trainings_become_means():
    noisy = [1.0 + 0.5 * (-1) ** step for step in range(10_000)]
    found = losses_chart("joint", history({"loss": noisy}))
    assert found is not None
    assert len(places(found.lines[0].path)) <= chart.MAX_PLACES
    ticks = [float(text) for _, text in found.y_ticks]
    assert ticks[-1] - ticks[0] < 0.05


@pytest.mark.parametrize(
    "points",
    [
        [],
        [{"examples": 0}],
        [{"examples": 5, "loss": 1.0}],
        [{"examples": n, "loss": float("nan")} for n in (1, 2)],
        [{"examples": n, "learning_rate": 0.1, "loss": True} for n in (1, 2)],
    ],
)
def test_nothing_to_show_is_no_chart(points):
    assert losses_chart("x", points) is None


def test_numbers_that_are_no_losses_are_left_out():
    found = losses_chart("x", history({"loss": [1.0, 0.5], "image/late": [1.0, 0.5], "memory_gib": [3.0, 3.0]}))
    assert found is not None and [line.name for line in found.lines] == ["loss"]


@pytest.mark.parametrize("values", [[0.0, 0.0], [3.0, 3.0], [-1.0, 2.0], [1e-9, 1e9], [-5.0, -4.0]])
def test_any_numbers_make_a_chart(values):
    found = losses_chart("x", history({"loss": values}))
    assert found is not None and found.y_ticks and found.x_ticks
    assert len(places(found.lines[0].path)) == 2
