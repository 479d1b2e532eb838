"""The built-in scenes: pure functions of their index, captions that agree with masks, splits that share nothing."""

from __future__ import annotations

import hashlib
import itertools
import json
import re

import numpy as np
import pytest

from models.labels import GARMENTS
from pipeline.base.errors import DataError
from pipeline.datasets import builtin
from pipeline.datasets.builtin import (
    ASSETS,
    COLOURS,
    SPLITS,
    VERSIONS,
    Builtin,
    BuiltinScenes,
    photograph_rows,
)
from pipeline.evaluation.units import photograph_of
from pipeline.prompts.classes import classes_in_prompt


def test_a_scene_is_a_function_of_split_seed_and_index() -> None:
    first, second = BuiltinScenes("train", seed=3), BuiltinScenes("train", seed=3)
    second(4)  # what was made before must not matter
    assert np.array_equal(first(5).image, second(5).image)
    assert np.array_equal(first(5).mask, second(5).mask)
    assert first(5).prompt == second(5).prompt


@pytest.mark.parametrize("other", [("train", 0, 1), ("train", 1, 0), ("validation", 0, 0), ("test", 0, 0)])
def test_another_index_seed_or_split_is_another_scene(other: tuple[str, int, int]) -> None:
    split, seed, index = other
    assert not np.array_equal(BuiltinScenes("train")(0).image, BuiltinScenes(split, seed)(index).image)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("split", SPLITS)
def test_captions_name_exactly_the_classes_of_the_mask(split: str, version: int) -> None:
    scenes = BuiltinScenes(split, version=version)
    counts = np.zeros(len(GARMENTS.classes), int)
    for index in range(300):
        scene = scenes(index)
        present, num_px = np.unique(scene.mask, return_counts=True)
        assert present[0] == 0 and present[-1] <= GARMENTS.num_classes
        assert tuple(present[1:].tolist()) == classes_in_prompt(scene.prompt, GARMENTS), scene.prompt
        assert num_px[1:].min() >= builtin.MIN_VISIBLE_PX
        assert len(scene.prompt.split()) <= 16
        counts[present] += 1
    assert counts[1:].min() > 0.5 * counts[1:].max(), "a class is far rarer than another"


@pytest.mark.parametrize("size_px", [32, 64, 96])
def test_shapes_and_types(size_px: int) -> None:
    scene = BuiltinScenes("test", size_px=size_px)(0)
    assert scene.image.shape == (size_px, size_px, 3) and scene.image.dtype == np.uint8
    assert scene.mask.shape == (size_px, size_px) and scene.mask.dtype == np.uint8


def test_garments_end_where_their_mask_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scene on another background differs only outside the garments and on their smooth rim."""
    scenes = BuiltinScenes("train")
    background = scenes._background

    def lighter(rng: np.random.Generator) -> tuple[np.ndarray, str]:
        image, surface = background(rng)
        return image + 1, surface

    monkeypatch.setattr(scenes, "_background", lighter)
    # Else a colour may drop out of the choice when the background changes.
    monkeypatch.setattr(builtin, "MIN_COLOUR_DISTANCE", 0.0)
    originals = [BuiltinScenes("train")(index) for index in range(40)]
    for index, original in enumerate(originals):
        changed = scenes(index)
        assert np.array_equal(changed.mask, original.mask)
        same = (changed.image == original.image).all(-1)
        inside, outside = original.mask > 0, original.mask == 0
        assert same[inside].mean() > 0.7
        assert same[outside].mean() < 0.3


def test_splits_share_no_garment_and_no_photograph() -> None:
    garments = {
        split: {picture.tobytes() for pictures in builtin._garment_pictures(split).values() for picture in pictures}
        for split in SPLITS
    }
    # Of all versions together: what one trains on, no other tests on.
    photographs = {
        split: {
            builtin._photograph(row["file"]).tobytes()
            for version in VERSIONS
            for row in photograph_rows(split, version)
        }
        for split in SPLITS
    }
    for first, second in itertools.combinations(SPLITS, 2):
        assert not garments[first] & garments[second]
        assert not photographs[first] & photographs[second]
    assert {split: BuiltinScenes(split).num_garments for split in SPLITS} == {
        "train": 3200,
        "validation": 480,
        "test": 960,
    }


def test_every_photograph_is_listed_with_a_surface_and_a_licence() -> None:
    rows = json.loads((ASSETS / "photographs.json").read_text())
    notice = (ASSETS / "NOTICE.md").read_text()
    assert {row["file"] for row in rows} == {path.name for path in (ASSETS / "photographs").iterdir()}
    listed = {line.split(" | ")[0]: line for line in notice.splitlines() if line.startswith("| ")}
    for row in rows:
        line = listed[f"| {row['file']}"]
        versions = ", ".join(map(str, row["versions"]))
        assert f"| {row['file']} | {row['split']} | {row['surface']} | {versions} |" in line
        title, author, licence, origin, changes = line.strip("| ").split(" | ")[4:]
        assert title and author and changes
        assert re.match(r"(CC0|CC BY|CC BY-SA) [1-4]\.0 \(https://creativecommons.org/|public domain \(", licence)
        assert re.match("(Python|Debian) package", origin)
        assert not classes_in_prompt(row["surface"], GARMENTS)
        assert not COLOURS.keys() & set(row["surface"].split()), "a colour in the surface could be read as a garment's"
        assert 2 <= len(row["surface"].split()) <= 4
    assert len({row["surface"] for row in rows}) == len(rows), "two photographs cannot be told apart by their captions"


@pytest.mark.parametrize(("version", "numbers"), [(1, (12, 4, 5)), (2, (43, 11, 21))])
def test_photographs_of_each_split(version: int, numbers: tuple[int, int, int]) -> None:
    assert tuple(len(photograph_rows(split, version)) for split in SPLITS) == numbers


def test_the_assets_stay_small() -> None:
    sizes = [path.stat().st_size for path in ASSETS.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(sizes) < 5.7e6


@pytest.mark.parametrize(
    ("split", "seed", "size_px", "digest"),
    [
        ("train", 0, 64, "b286fda05c8709d021a69cec3c60cfd6e00b619c631908ccd17c25707f94c635"),
        ("validation", 0, 64, "702de2f268064c3ac59af36f36ad7d031d5f086298a506671408f09b1ff0b766"),
        ("test", 3, 96, "d70c2d6a7cda874b371ced6f0950674daabfbefd9da5a1d3c3028cee2383d9f4"),
    ],
)
def test_version_1_is_as_it_always_was(split: str, seed: int, size_px: int, digest: str) -> None:
    """Digests of the 40 first scenes, computed before there was a version 2."""
    scenes, found = BuiltinScenes(split, seed, size_px), hashlib.sha256()
    for index in range(40):
        scene = scenes(index)
        found.update(scene.image.tobytes() + scene.mask.tobytes() + scene.prompt.encode())
    assert found.hexdigest() == digest
    assert Builtin(split, seed, size_px, 3).entries()["key"].to_pylist() == ["0", "1", "2"]


def test_keys_of_version_2_name_the_photograph() -> None:
    source = Builtin("test", 0, 32, 400, version=2)
    keys = source.entries()["key"].to_pylist()
    assert keys == sorted(set(keys)) and keys[7].startswith("000007-")
    surfaces = {row["file"].removesuffix(".jpg"): row["surface"] for row in photograph_rows("test", 2)}
    assert {photograph_of(key) for key in keys} == surfaces.keys(), "not every photograph is used"
    for index in range(0, 400, 20):
        found = source.read({"key": keys[index], "mask": keys[index]})
        assert found.mask is not None
        assert found.captions[0].endswith(f" {surfaces[photograph_of(keys[index])]}")
        assert np.array_equal(found.mask, BuiltinScenes("test", 0, 32, version=2)(index).mask)


def test_a_wrong_split_is_an_error_that_lists_the_right_ones() -> None:
    with pytest.raises(DataError, match="train, validation, test"):
        BuiltinScenes("trian")


def test_wrong_numbers_are_errors() -> None:
    with pytest.raises(DataError, match="seed"):
        BuiltinScenes("train", seed=-1)
    with pytest.raises(DataError, match="size_px"):
        BuiltinScenes("train", size_px=8)
    with pytest.raises(DataError, match="index"):
        BuiltinScenes("train")(-1)
    with pytest.raises(DataError, match="version 3; choose one of 1, 2"):
        BuiltinScenes("train", version=3)


def test_scenes_without_masks_are_the_same_pictures():
    both, alone = Builtin("train", 0, 32, 5), Builtin("train", 0, 32, 5, labelled="none")
    for one, other in zip(both.entries().to_pylist(), alone.entries().to_pylist(), strict=True):
        found = alone.read(other)
        assert found.mask is None and found[::2] == both.read(one)[::2]


def test_classes_may_have_a_long_tail_and_else_scenes_stay_as_they_were():
    plain, tailed = BuiltinScenes("train", 0, 32, 2), BuiltinScenes("train", 0, 32, 2, rarest=1 / 64)
    assert np.array_equal(plain(3).image, BuiltinScenes("train", 0, 32, 2, rarest=1.0)(3).image)
    counts = np.zeros(GARMENTS.num_classes + 1)
    for index in range(400):
        counts[np.unique(tailed(index).mask)] += 1
    assert counts[1] > 3 * counts[4] > 3 * counts[8], counts
    assert 0.3 < counts[2] / counts[1] < 0.8


def test_captions_may_leave_garments_out_and_pictures_stay():
    whole, left_out = BuiltinScenes("train", 0, 32), BuiltinScenes("train", 0, 32, unnamed=0.3)
    shown = named = 0
    for index in range(100):
        one, other = whole(index), left_out(index)
        assert np.array_equal(one.image, other.image) and np.array_equal(one.mask, other.mask)
        all_of_them, some = (set(classes_in_prompt(scene.prompt, GARMENTS)) for scene in (one, other))
        assert some <= all_of_them and (some or other.prompt.startswith("something "))
        shown, named = shown + len(all_of_them), named + len(some)
    assert 0.55 < named / shown < 0.85
