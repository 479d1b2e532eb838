"""What a mask holds, and what it must not."""

from __future__ import annotations

import numpy as np
import pytest

from models.labels import GARMENTS, VOC
from pipeline.base.errors import DataError
from pipeline.pictures.masks import check_mask, ignore_uncertain


def test_check_mask_lists_values_that_are_no_class() -> None:
    mask = np.array([[0, 20, 255]], np.uint8)
    check_mask(mask, VOC, "here")
    check_mask(mask[:0], VOC, "an empty mask")
    with pytest.raises(DataError, match=r"b\.png: the mask holds 20; label space 'garments' has class ids 0 to 8"):
        check_mask(mask, GARMENTS, "b.png")
    with pytest.raises(DataError, match=r"21, 22, 23, 24, 25, 26, 27, 28, 29, 30, \.\.\.;"):
        check_mask(np.arange(60000, dtype=np.uint16).reshape(100, 600), VOC, "c.png")


def test_ignore_uncertain():
    mask, confidence = np.array([[1, 2, 3]], np.uint8), np.array([[127, 128, 255]], np.uint8)

    assert ignore_uncertain(mask, confidence, 0.5, 255).tolist() == [[255, 2, 3]]
    assert ignore_uncertain(mask, confidence, 0, 255).tolist() == mask.tolist() == [[1, 2, 3]]
    assert ignore_uncertain(mask, confidence, 1, 65535).tolist() == [[65535, 65535, 3]]
    with pytest.raises(DataError, match="does not fit"):
        ignore_uncertain(mask, confidence[:, :2], 0.5, 255)
