"""Refining later gives other masks and ids, and leaves pictures alone.

tests/pipeline/test_generate.py runs the whole job.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import refine as module
from pipeline.base.errors import ConfigError
from pipeline.pictures.codec import decode_mask, encode_image, encode_mask
from pipeline.refine import RefineConfig, refine, refine_packed, refined_ids
from pipeline.stages.refine import Refine
from pipeline.tables.conform import conform, object_column
from pipeline.tables.ids import pair_id
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import write_table
from tests.pipeline.tables.fabricated import IDS, packed
from tests.tiny import GARMENTS, save_pairs

REFINE = Refine(min_area_px=4)
OTHERS: dict[str, Any] = {"refine": REFINE, "ignore_index": 255}


def speckled() -> np.ndarray:
    """A blob of class 3, and a speck of class 1."""
    mask = np.zeros((12, 12), np.uint8)
    mask[4:10, 4:10] = 3
    mask[0, 0] = 1
    return mask


def test_only_what_is_wanted_is_refined_under_its_new_id(monkeypatch):
    monkeypatch.setattr(module.ray, "get", lambda reference: reference)
    image = encode_image(np.full((12, 12, 3), 7, np.uint8), "jpeg")
    batch = {
        "pair_id": np.array(["a", "b"], object),
        "sampler": np.array(["old", "old"], object),
        "image": object_column([{"bytes": image, "path": None}] * 2),
        "mask": object_column([{"bytes": encode_mask(speckled()), "path": None}] * 2),
    }

    made = refine_packed(batch, **{"wanted": {"b": "new id"}, "settings": {"old": "new"}, **OTHERS})

    assert (made["pair_id"].tolist(), made["sampler"].tolist()) == (["new id"], ["new"])
    assert made["image"][0]["bytes"] == image, "a JPEG is not encoded again"
    assert set(np.unique(decode_mask(made["mask"][0], "mask"))) == set(made["class_ids"][0]) == {0, 3}
    none = refine_packed(batch, **{"wanted": {}, "settings": {}, **OTHERS})
    assert {len(column) for column in none.values()} == {0}


def test_ids_are_those_of_generating_with_the_other_settings():
    rows = packed(IDS[:2], sampler=["old", "older"])
    found = refined_ids(rows, {"old": "new", "older": "newer"}).to_pylist()
    assert found == [
        {"pair_id": pair_id("prompt", 0, "bundle", "new"), "source_id": IDS[0]},
        {"pair_id": pair_id("prompt", 1, "bundle", "newer"), "source_id": IDS[1]},
    ]


def test_real_pairs_and_masks_that_were_refined_already_are_refused_and_bind_no_run(tmp_path):
    """The same name then takes the right folder."""
    real = save_pairs(tmp_path / "real", 2)
    config = RefineConfig(run="refined", runs=str(tmp_path / "runs"), pairs=str(real), refine=REFINE)
    with pytest.raises(ConfigError, match="real holds real pairs; only the masks of a generate run"):
        refine(config)

    for number, other in enumerate(({"multiply": {}, "sampler": {}}, {"teacher": "x", "hold": "held"})):
        table: pa.Table = conform(packed(IDS[:2], sampler=[json.dumps(other)] * 2), PAIR)
        write_table(table, f"{tmp_path}/other{number}/shards")
        GARMENTS.save(tmp_path / f"other{number}" / "label_space.json")
        with pytest.raises(ConfigError, match=f"other{number} holds pairs of jobs.multiply or jobs.label"):
            refine(config.model_copy(update={"pairs": str(tmp_path / f"other{number}")}))

    sampler = json.dumps({"refine": {"min_area_px": 16, "fill_holes_px": 0}})
    rows: pa.Table = conform(packed(IDS[:2], sampler=[sampler] * 2), PAIR)
    write_table(rows, f"{tmp_path}/made/shards")
    GARMENTS.save(tmp_path / "made" / "label_space.json")
    with pytest.raises(ConfigError, match="what that removed cannot come back. Generate with --refine.min-area-px 0"):
        refine(config.model_copy(update={"pairs": str(tmp_path / "made")}))
