"""A pair is made again from its row alone, and a row that cannot be says why."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from models.reverse import SamplerSettings
from pipeline.base.errors import ConfigError, DataError
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.regenerate import compare, find_row, regenerate
from pipeline.tables.ids import canonical_json
from tests.pipeline.tables.fabricated import IDS, packed, sink
from tests.tiny import SIZE_PX, save_tiny_bundle

SETTINGS = SamplerSettings(steps=2, guidance=2.0, precision="float32", batch_size=4, confidence_threshold=0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return str(folder), save_tiny_bundle(folder).digest


def row_of(digest: str, **changes) -> dict[str, object]:
    sampler = canonical_json({"sampler": asdict(SETTINGS), "refine": {"min_area_px": 2, "fill_holes_px": 0}})
    return {"pair_id": "a", "prompt": "a red bag", "seed": 7, "bundle": digest, "sampler": sampler, **changes}


def test_the_pair_of_a_row_is_always_the_same_and_every_difference_is_counted(bundle):
    folder, digest = bundle
    made = regenerate(row_of(digest), folder)
    image, mask = made["image"][0], made["mask"][0]
    kept = row_of(digest, image=encode_image(image), mask=encode_mask(mask))

    same = compare(kept, folder)
    assert same.equal and np.array_equal(same.image, image) and np.array_equal(same.mask, mask)

    brighter = image.copy()
    brighter[0, 0, 0] ^= 128
    other = compare({**kept, "image": encode_image(brighter), "mask": encode_mask((mask + 1) % 9)}, folder)
    assert not other.equal and other.differing_mask_pixels == SIZE_PX**2
    assert (other.differing_image_values, other.largest_image_difference) == (1, 128)
    assert not compare({**kept, "seed": 8}, folder).equal
    before_the_cache = canonical_json(
        {"sampler": SETTINGS.recorded(), "refine": {"min_area_px": 2, "fill_holes_px": 0}}
    )
    assert "step_cache" not in before_the_cache and compare({**kept, "sampler": before_the_cache}, folder).equal


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sampler": None}, "the row is a real pair; only generated ones"),
        ({"bundle": "0123"}, "the row was made with bundle 0123, but .* is "),
        (
            {"sampler": canonical_json({"sampler": {**asdict(SETTINGS), "eta": 1}, "refine": {}})},
            "by another version of this project, whose sampler settings differ in eta",
        ),
    ],
)
def test_rows_that_cannot_be_made_again_say_why(bundle, changes, told):
    with pytest.raises(ConfigError, match=told):
        regenerate(row_of(bundle[1], **changes), bundle[0])


def test_a_row_is_found_in_the_one_shard_that_holds_it(tmp_path):
    sink(tmp_path, rows_per_shard=2).write([packed(IDS[:6])], None)
    assert find_row(str(tmp_path), IDS[4])["seed"] == 4
    with pytest.raises(DataError, match="holds no pair nobody"):
        find_row(str(tmp_path), "nobody")
