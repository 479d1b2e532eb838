"""Views of a picture and its mask are of the same place, at every size."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.base.errors import DataError
from pipeline.pictures.squares import View, centre, require_one_size, seen, seen_mask, somewhere


@pytest.mark.parametrize(("height", "width", "top", "left"), [(6, 10, 0, 2), (10, 6, 2, 0), (8, 8, 0, 0)])
def test_the_middle_is_the_largest_square_there(height, width, top, left):
    assert centre(height, width) == View(top, left, min(height, width))


def test_at_its_own_size_a_view_copies_pixels():
    image = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    mask = np.random.default_rng(1).integers(0, 600, (6, 10)).astype(np.uint16)

    view = View(0, 3, 6)

    np.testing.assert_array_equal(seen(image, view, 6), image[:, 3:9])
    np.testing.assert_array_equal(seen_mask(mask, view, 6), mask[:, 3:9])


@pytest.mark.parametrize("size_px", [4, 8, 24])
def test_image_and_mask_stay_aligned_when_they_shrink_or_grow(size_px):
    mask = np.zeros((12, 20), np.uint8)
    mask[3:9, 10:16] = 7
    image = np.repeat((mask > 0)[:, :, None] * np.uint8(255), 3, axis=2)

    view = View(0, 6, 12)

    edge = np.abs((seen(image, view, size_px)[:, :, 0] > 127).astype(int) - (seen_mask(mask, view, size_px) == 7))
    assert edge.mean() <= 1 / size_px, "they differ along the edge at most"
    assert set(np.unique(seen_mask(mask, view, size_px))) <= {0, 7}, "no class is made up"


def test_crops_are_drawn_by_their_key_and_stay_inside():
    views = [somewhere(30, 50, 0.5, key=str(number)) for number in range(200)]

    assert views[:5] == [somewhere(30, 50, 0.5, key=str(number)) for number in range(5)]
    assert len(set(views)) == 200
    assert all(15 <= one.side <= 30 for one in views)
    assert all(one.top >= 0 and one.left >= 0 for one in views)
    assert all(one.top + one.side <= 30 and one.left + one.side <= 50 for one in views)


def test_pictures_of_several_sizes_make_no_batch():
    with pytest.raises(
        DataError, match=r"there are \[\(4, 4\), \(4, 6\)\] \(height, width\), perhaps more; set size_px"
    ):
        require_one_size({(4, 4), (4, 6)})
