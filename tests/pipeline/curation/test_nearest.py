"""Copies are near to a real pair beside how far real ones are apart; what no real pair is like is rare."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.curation.nearest import RealPairs, distinct
from pipeline.pictures.picture_hash import picture_hash
from pipeline.stages.embed import small_pictures


def real(numbers: np.random.Generator, num: int = 300) -> RealPairs:
    embeddings = numbers.normal(3.0, 1.0, (num, 24)).astype(np.float32)
    holds = np.zeros((num, 4), bool)
    holds[np.arange(num), 1 + np.arange(num) % 2] = True
    return RealPairs.of(np.array([f"id{one}" for one in range(num)]), embeddings, np.arange(1, num + 1), holds)


def test_distances_among_real_pairs_are_those_of_comparing_all():
    pairs = real(np.random.default_rng(0), 50)
    distance = 1 - pairs.embeddings @ pairs.embeddings.T
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_allclose(pairs.apart, distance.min(1), atol=1e-5)
    for place in range(50):
        nearest = int(distance[place].argmin())
        others = np.delete(distance[nearest], place)
        np.testing.assert_allclose(pairs.ratios[place], distance[place].min() / others.min(), rtol=1e-3)


def test_copies_lie_below_the_ratio_of_real_pairs_and_new_ones_above():
    numbers = np.random.default_rng(1)
    pairs = real(numbers)
    raw = pairs.embeddings[:20] + pairs.mean
    holds = np.zeros((20, 4), bool)
    holds[:, 1] = True
    copies = pairs.nearest(raw + numbers.normal(0, 0.01, raw.shape), holds)
    new = pairs.nearest(numbers.normal(3.0, 1.0, raw.shape).astype(np.float32), holds)
    assert copies.place.tolist() == list(range(20))
    assert copies.ratio.max() < pairs.copy_ratio < np.quantile(new.ratio, 0.1)


@pytest.mark.parametrize(("num", "most"), [(40, 0.008), (400, 0.003)])
def test_few_real_pairs_do_not_make_copies_of_new_pictures(num, most):
    numbers = np.random.default_rng(4)
    holds = np.ones((500, 1), bool)
    called, copied = [], []
    for _ in range(4000 // num):
        raw = numbers.normal(size=(num + 500, 12)).astype(np.float32)
        pairs = RealPairs.of(np.arange(num), raw[:num], np.zeros(num, np.int64), holds[:num])
        called.append((pairs.nearest(raw[num:], holds).ratio < pairs.copy_ratio).mean())
        again = raw[:num] + numbers.normal(0, 0.01, (num, 12)).astype(np.float32)
        copied.append((pairs.nearest(again, holds[:num]).ratio < pairs.copy_ratio).mean())

    assert np.mean(called) < most, "one in a thousand is meant; the least ratio alone would call one in N + 1 a copy"
    assert np.mean(copied) > 0.99


def pictures(numbers: np.random.Generator, num: int) -> list[np.ndarray]:
    """Soft ones of 64 x 64."""
    small = [Image.fromarray(numbers.integers(0, 255, (6, 6, 3), np.uint8)) for _ in range(num)]
    return [np.asarray(one.resize((64, 64), Image.Resampling.BICUBIC)) for one in small]


def as_jpeg(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=90)
    return np.asarray(Image.open(file))


def of_pictures(images: list[np.ndarray]) -> RealPairs:
    hashes = np.array([picture_hash(one) or 0 for one in images])
    holds = np.ones((len(images), 2), bool)
    return RealPairs.of(*distinct(np.arange(len(images)), small_pictures(np.stack(images)), hashes, holds))


def test_a_real_picture_that_is_there_twice_hides_no_copies():
    numbers = np.random.default_rng(5)
    images, new = pictures(numbers, 400), small_pictures(np.stack(pictures(numbers, 200)))
    noisy = [np.clip(one + numbers.integers(-12, 13, one.shape), 0, 255).astype(np.uint8) for one in images[:50]]
    copies = small_pictures(np.stack(noisy))
    white = np.full_like(images[0], 255)
    usual = of_pictures(images).copy_ratio
    for more in ([], [images[7]], [as_jpeg(images[7])], images, [white, white]):
        real = of_pictures(images + more)
        assert real.copy_ratio == pytest.approx(usual, rel=0.05)
        assert (real.nearest(copies, np.ones((50, 2), bool)).ratio < real.copy_ratio).all()
        assert (real.nearest(new, np.ones((200, 2), bool)).ratio < real.copy_ratio).mean() <= 0.01


def test_of_pictures_that_look_alike_the_first_stands_for_the_classes_of_all():
    embeddings = np.array([[1, 0], [0, 1], [1, 0.1], [0.5, 0.5], [0.5, 0.5], [0.4, 0.6]])
    hashes = np.array([2**40, 2**50 - 1, 2**40 + 1, 0, 0, 0])
    ids, vectors, kept, holds = distinct(np.array(list("abcdef")), embeddings, hashes, np.eye(6, dtype=bool))
    assert ids.tolist() == ["a", "b", "d", "f"], "flat pictures have no hash, and are the same where all of them is"
    assert kept.tolist() == [2**40, 2**50 - 1, 0, 0] and vectors.tolist() == embeddings[[0, 1, 3, 5]].tolist()
    assert [np.flatnonzero(one).tolist() for one in holds] == [[0, 2], [1], [3, 4], [5]]
    everything = distinct(np.arange(6), embeddings, np.zeros(6, np.int64), np.eye(6, dtype=bool))
    assert everything[0].tolist() == [0, 1, 2, 3, 5], "without any hash"


def test_rarity_is_the_distance_to_real_pairs_of_the_same_classes():
    pairs = real(np.random.default_rng(2))
    raw = pairs.embeddings[:4] + pairs.mean
    holds = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    found = pairs.nearest(raw, holds)
    assert found.rarity[0] < 1e-4, "the pair itself holds class 1"
    assert found.rarity[1] > 0.05, "it holds class 2 alone"
    assert np.isnan(found.rarity[2:]).all(), "no real pair holds class 3, and the last one holds none"


def test_what_is_saved_is_what_was_there():
    pairs = real(np.random.default_rng(3), 20)
    again = RealPairs.from_bytes(pairs.to_bytes())
    for name in ("ids", "mean", "embeddings", "hashes", "holds", "apart", "ratios"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pairs, name))
