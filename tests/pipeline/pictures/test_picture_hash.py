"""A hash that hardly changes when a picture hardly does, and differs between pictures."""

from __future__ import annotations

import numpy as np

from pipeline.datasets.builtin import BuiltinScenes
from pipeline.pictures.picture_hash import picture_hash


def bits(one: int | None, other: int | None) -> int:
    assert one is not None and other is not None
    return ((one ^ other) & (2**64 - 1)).bit_count()


def test_a_picture_that_hardly_changes_keeps_its_hash_and_others_have_their_own():
    scenes = BuiltinScenes("train", 0, 64)
    images = [scenes(number).image for number in range(20)]
    numbers = np.random.default_rng(0)
    for image in images:
        noisy = np.clip(image + numbers.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        assert bits(picture_hash(image), picture_hash(noisy)) <= 3
        assert bits(picture_hash(image), picture_hash(np.kron(image, np.ones((2, 2, 1), np.uint8)))) <= 3
    apart = [bits(picture_hash(one), picture_hash(other)) for one in images for other in images if one is not other]
    assert min(apart) > 3 and np.mean(apart) > 20


def test_a_flat_picture_has_none():
    assert picture_hash(np.full((9, 7, 3), 40, np.uint8)) is None
