"""A set with planted faults: each kind's score finds at least nine of ten of its kind among the worst tenth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from models.labels import GARMENTS
from pipeline.curation.duplicates import alike
from pipeline.curation.nearest import RealPairs
from pipeline.datasets.builtin import BuiltinScenes
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.pictures.picture_hash import picture_hash
from pipeline.stages.embed import small_pictures
from pipeline.stages.score_plain import Unwanted, plain_score

NUM, REAL = 300, 600
EACH = NUM // 20
KINDS = ("wrong class", "shifted mask", "copy", "near-duplicate", "flat picture")


def holds(masks) -> np.ndarray:
    return np.array([[number > 0 and number in np.unique(one) for number in range(9)] for one in masks])


@pytest.fixture(scope="module")
def planted():
    """Scenes that nothing was trained on, five per cent of them with each fault, and what is said of them."""
    numbers = np.random.default_rng(0)
    scenes, others = BuiltinScenes("train", 7, 64), BuiltinScenes("train", 0, 64)
    made = [scenes(number) for number in range(NUM)]
    real = [others(number) for number in range(REAL)]
    images, masks = [one.image.copy() for one in made], [one.mask.copy() for one in made]
    prompts = [one.prompt for one in made]
    order = numbers.permutation(NUM)
    places = {kind: order[number * EACH : (number + 1) * EACH].tolist() for number, kind in enumerate(KINDS)}
    left = order[len(KINDS) * EACH :].tolist()

    def nearly(image):
        return np.clip(image + numbers.normal(0, 2, image.shape), 0, 255).astype(np.uint8)

    for place in places["wrong class"]:
        first = next(one for one in np.unique(masks[place]).tolist() if one not in (0, GARMENTS.ignore_index))
        masks[place][masks[place] == first] = first % GARMENTS.num_classes + 1
    for place in places["shifted mask"]:
        masks[place] = np.roll(masks[place], (6, 6), (0, 1))
    for number, place in enumerate(places["copy"]):
        images[place], masks[place], prompts[place] = (
            nearly(real[number].image), real[number].mask, real[number].prompt,
        )  # fmt: skip
    for number, place in enumerate(places["near-duplicate"]):
        images[place], masks[place] = nearly(images[left[number]]), masks[left[number]]
        prompts[place] = prompts[left[number]]
    for place in places["flat picture"]:
        images[place] = np.clip(numbers.normal(100, 1, images[place].shape), 0, 255).astype(np.uint8)
    rows = [
        {
            "pair_id": str(number), "image": {"bytes": encode_image(image)}, "mask": {"bytes": encode_mask(mask)},
            "prompt": prompt,
        }
        for number, (image, mask, prompt) in enumerate(zip(images, masks, prompts, strict=True))
    ]  # fmt: skip
    plain = [plain_score(row, GARMENTS, Unwanted()) for row in rows]
    pairs = RealPairs.of(
        np.array([str(number) for number in range(REAL)]),
        small_pictures(np.stack([one.image for one in real])),
        np.array([picture_hash(one.image) or 0 for one in real]),
        holds([one.mask for one in real]),
    )
    found = pairs.nearest(small_pictures(np.stack(images)), holds(masks))
    return SimpleNamespace(plain=plain, found=found, places=places, left=left, copy_ratio=pairs.copy_ratio)


def share_found(values, places) -> float:
    """Of the pairs at `places`: how many are among the tenth with the lowest values."""
    numbers = np.array([np.inf if one is None else one for one in values], float)
    worst = set(np.argsort(numbers, kind="stable")[: NUM // 10].tolist())
    return len(worst & set(places)) / len(places)


@pytest.mark.parametrize(
    ("kind", "score"),
    [("wrong class", "classes_found"), ("shifted mask", "edge_contrast"), ("flat picture", "contrast")],
)
def test_the_plain_scores_find_their_kind(planted, kind, score):
    assert share_found([one.get(score) for one in planted.plain], planted.places[kind]) >= 0.9


def test_copies_are_found_and_nothing_else_is_called_one(planted):
    assert share_found(planted.found.ratio, planted.places["copy"]) >= 0.9
    called = set(np.flatnonzero(planted.found.ratio < planted.copy_ratio).tolist())
    assert len(called & set(planted.places["copy"])) >= 0.9 * EACH
    assert len(called & set(planted.left)) <= 0.01 * len(planted.left)


def test_near_duplicates_are_in_one_group_with_their_originals(planted):
    hashes = {place: score["picture_hash"] for place, score in enumerate(planted.plain) if score["picture_hash"]}
    groups = dict(zip(hashes, alike(np.array(list(hashes.values()))).tolist(), strict=True))
    pairs = list(zip(planted.places["near-duplicate"], planted.left, strict=False))
    assert sum(groups[one] == groups[other] for one, other in pairs) >= 0.9 * EACH
    alone = [one for one in planted.left[EACH:] if list(groups.values()).count(groups.get(one)) == 1]
    assert len(alone) == len(planted.left) - EACH
