"""What an object of COCO covers; what covers nothing that could be known is refused, and costs nothing."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from pycocotools import mask as rle

from pipeline.datasets.regions import MAX_OUTLINE_PX, region

HEIGHT, WIDTH = 6, 10
WHOLE = HEIGHT * WIDTH


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98, 1])
def test_packed_run_lengths_are_read_as_coco_does(share):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(rng.integers(1, 70, 2)) < share
        runs = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        packed = {"size": list(mask.shape), "counts": runs["counts"].decode()}

        np.testing.assert_array_equal(region(packed, *mask.shape), mask)


def packed(height, width):
    return rle.encode(np.ones((height, width), np.uint8, order="F"))["counts"].decode()


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ("", "is empty, cut, or none"),
        (packed(3, 5), "run lengths of 15 pixels, the picture has 60"),
        (packed(60, 100), "run lengths of 6000 pixels, the picture has 60"),
        (packed(60, 100)[:-1], "is empty, cut, or none"),
        ("garbage\\\\", "is empty, cut, or none"),
        ("\u00e9", "is empty, cut, or none"),
        ("\ud800", "is empty, cut, or none"),
        ("o" * 30 + "0", "longer than any picture"),
        ([], "run lengths of 0"),
        ([-20, WHOLE + 20], "0 and above"),
        ([0.5, WHOLE - 0.5], "whole numbers"),
        ([0, float("nan")], "whole numbers"),
        ([2**40], "longer than any picture"),
        ([[WHOLE]], "whole numbers"),
        (None, "whole numbers"),
    ],
    ids=lambda value: str(value)[:12].encode("ascii", "backslashreplace").decode(),
)
def test_run_lengths_that_are_none_or_of_another_picture_are_refused(counts, told):
    with pytest.raises(ValueError, match=told):
        region({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)


@pytest.mark.parametrize("size", [None, [WIDTH, HEIGHT], "6 x 10"])
def test_run_lengths_say_the_size_of_their_picture(size):
    with pytest.raises(ValueError, match="picture of"):
        region({"size": size, "counts": [0, WHOLE]}, HEIGHT, WIDTH)


SQUARE = [2, 1, 5, 1, 5, 4, 2, 4]


@pytest.mark.parametrize(
    "polygons",
    [
        SQUARE,
        [[[2, 1], [5, 1], [5, 4], [2, 4]]],
        [[2, 1], [5, 1], [5, 4], [2, 4]],
        [[{"x": 2, "y": 1}, {"x": 5, "y": 1}, {"x": 5, "y": 4}]],
        [{"x": 2, "y": 1}, {"x": 5, "y": 1}, {"x": 5, "y": 4}],
        [[*SQUARE, 7]],
        [SQUARE, [2, 1, 5, 1]],
        [[]],
        [["2", "1", "5", "1", "5", "4"]],
        [[None] * 6],
        "2 1 5 1",
        7,
    ],
    ids=str,
)
def test_what_is_no_polygon_is_refused(polygons):
    with pytest.raises(ValueError, match="a polygon is a flat list of an even number|^a (str|int)$"):
        region(polygons, HEIGHT, WIDTH)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 3.5e8, -1e300, 10**30])
def test_a_wrong_number_in_a_polygon_costs_no_memory(wrong):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="no finite number, or far outside|even number"):
        region([[wrong, 1, 5, 1, 5, 4, 2, 4]], HEIGHT, WIDTH)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"


def test_outlines_that_are_long_together_are_refused():
    long = [0, 0, MAX_OUTLINE_PX / 4, 0, 0, 0]

    assert region([long], HEIGHT, WIDTH).shape == (HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="outlines are longer than 2,000,000 pixels"):
        region([long] * 5, HEIGHT, WIDTH)


def test_polygons_may_leave_their_picture():
    covered = region([[-300, -200, 5, -200, 5, 400, -300, 400]], HEIGHT, WIDTH)

    np.testing.assert_array_equal(covered, np.arange(WIDTH)[None] < np.full((HEIGHT, 1), 5))
