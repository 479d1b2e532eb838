"""Pictures for masks that are there: each planned one once, made again alone, and known by what their masks taught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from models.labels import GARMENTS
from models.reverse import SamplerSettings, Student
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.multiply import MultiplyConfig, multiply, planned
from pipeline.regenerate import compare
from pipeline.stages.mask_views import MaskViews
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import REASONS
from pipeline.training.order import ids_of
from pipeline.training.sets import Labels
from pipeline.verify import verify
from tests.tiny import SIZE_PX, save_pairs, save_tiny_bundle


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multiply")
    save_tiny_bundle(folder / "bundle", num_tokens=64)
    save_pairs(folder / "real", 12, num_labelled=8)
    return folder


def config(place, **changes) -> MultiplyConfig:
    values = {
        "run": "made", "runs": str(place / "runs"), "bundle": str(place / "bundle"), "pairs": str(place / "real"),
        "sampler": SamplerSettings(steps=2, precision="float32", batch_size=4), "workers": Workers(threads=1),
        "rows_per_shard": 6,
    }  # fmt: skip
    return MultiplyConfig.model_validate({**values, **changes})


def test_a_plan_is_of_labelled_pairs_and_a_longer_one_begins_like_it(place):
    one = planned(config(place).resolved(), "digest")
    assert sorted(one["source_id"].to_pylist()) == ids_of(str(place / "real"), ":", "labelled")
    two = planned(config(place, per_mask=2).resolved(), "digest")
    assert set(one["pair_id"].to_pylist()) < set(two["pair_id"].to_pylist()) and len(set(two["seed"].to_pylist())) == 16
    assert set(planned(config(place, slice="0:3").resolved(), "digest")["source_id"].to_pylist()) <= set(
        ids_of(str(place / "real"), "0:3")
    )
    other = planned(config(place, views=MaskViews(shift=0.1)).resolved(), "digest")
    assert not set(one["pair_id"].to_pylist()) & set(other["pair_id"].to_pylist()), "views decide a picture"


def test_what_cannot_be_done_is_said_before_anything_begins(place):
    with pytest.raises(ValidationError, match="holds nothing"):
        config(place, slice="0:0")
    bare = save_pairs(place / "bare", 4, num_labelled=0)
    with pytest.raises(ConfigError, match="bare holds no masks in :; give labelled pairs"):
        planned(config(place, pairs=str(bare)).resolved(), "digest")
    words = MaskViews(mirrored_words={"re": "der"})
    with pytest.raises(ConfigError, match=r"views\.mirrored_words: .*--views\.flip False"):
        planned(config(place, per_mask=8, views=words).resolved(), "digest")
    replace(GARMENTS, ignore_index=254).save(bare / "label_space.json")
    with pytest.raises(ConfigError, match=r"give pairs of the same label space.* index 254: .*Bundle: .* index 255: "):
        multiply(config(place, pairs=str(bare)))
    bundle = save_tiny_bundle(place / "student", num_tokens=64)
    bundle.student = Student(2, 5.0, "abc")
    bundle.save(place / "student")
    with pytest.raises(ConfigError, match="student was distilled and makes whole pairs alone"):
        multiply(config(place, bundle=str(place / "student")))


@pytest.mark.ray
def test_pictures_are_made_once_and_for_their_masks(place, ray_session):
    made = multiply(config(place, per_mask=2))
    assert (made.num_pairs, made.num_errors) == (16, 0)
    folder = str(place / "runs" / "made")
    assert verify(folder, deep=True) == []
    rows = read_shards([folder]).sort_by("pair_id").to_pylist()
    plan = {row["pair_id"]: row for row in planned(config(place, per_mask=2).resolved(), rows[0]["bundle"]).to_pylist()}
    assert plan.keys() == {row["pair_id"] for row in rows}
    sources = {row["pair_id"]: row for row in read_shards([str(place / "real")]).to_pylist()}
    flips = 0
    for row in rows:
        source = sources[plan[row["pair_id"]]["source_id"]]
        given, found = (decode_pairs({"mask": np.array([one["mask"]], object)})["mask"][0] for one in (source, row))
        given = MaskViews(flip=False).mask(given, 0, SIZE_PX, GARMENTS)
        flipped = not np.array_equal(given, found)
        assert np.array_equal(given[:, ::-1] if flipped else given, found)
        flips += flipped
        assert row["origin"] == "synthetic" and row["confidence_mean"] is None
    assert 0 < flips < 16
    assert compare(rows[3], str(place / "bundle")).equal, "and one of them alone"

    again = multiply(config(place, per_mask=3))
    assert again.num_pairs == 24 and again.num_duplicates == 0
    with pytest.raises(ConfigError, match="views"):
        multiply(config(place, per_mask=3, views=MaskViews(shift=0.2)))


@pytest.mark.ray
def test_pairs_stand_on_the_labels_whose_masks_they_have(place, ray_session):
    multiply(config(place, run="known", slice="0:6"))
    learned = Labels.of(str(place / "runs" / "known")).ids
    wanted = set(ids_of(str(place / "real"), "0:6", "labelled"))
    assert wanted and wanted <= learned, "so that no test pair's mask is trained on unseen"


def test_reasons_of_its_errors_are_known():
    assert "undecodable_input" in REASONS
