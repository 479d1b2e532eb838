"""A teacher's masks for pictures: free, or held to the classes that their captions name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.labels import GARMENTS
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.pictures.codec import decode_mask, encode_image
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import list_shards
from pipeline.training.labelling import LabelConfig, allowed_classes, label, labelled
from pipeline.training.tasks.segmenter import SegmenterTask
from tests.tiny import save_pairs

TASK = SegmenterTask(GARMENTS, "unet_small", 4)
BAG, BOOT = GARMENTS.classes.index("bag"), GARMENTS.classes.index("boot")


def packed(*rows: tuple[str, list[str] | None]) -> pa.Table:
    """Pictures of 8 x 8 pixels with a prompt and captions each."""
    picture = {"bytes": encode_image(np.zeros((8, 8, 3), np.uint8)), "path": None}
    columns = {
        "pair_id": [f"id{row}" for row in range(len(rows))],
        "image": [picture] * len(rows),
        "prompt": [prompt for prompt, _ in rows],
        "captions": [captions for _, captions in rows],
    }
    return pa.table({name: pa.array(values, PAIR.field(name).type) for name, values in columns.items()})


@pytest.mark.parametrize("hold", ["held", "free"])
def test_held_answers_are_of_the_classes_that_any_caption_names_or_background(hold):
    rows = packed(("a red bag", None), ("a red bag", ["a red bag on sand", "two boots"]), ("something", None), ("", []))
    seen = [np.flatnonzero(allowed_classes(row, TASK, hold)).tolist() for row in rows.to_pylist()]
    everything = list(range(GARMENTS.num_classes + 1))
    assert seen == ([[0, BAG], [0, BAG, BOOT], everything, everything] if hold == "held" else [everything] * 4)


def test_a_teacher_that_is_held_answers_the_best_class_that_is_named():
    class Sure(torch.nn.Module):
        """Sees boots everywhere, bags second to them."""

        def forward(self, image):
            scores = torch.zeros(len(image), GARMENTS.num_classes + 1, *image.shape[2:])
            scores[:, BOOT], scores[:, BAG] = 2, 1
            return scores

    def predict(image, allowed):
        return TASK.predict(Sure(), torch.from_numpy(image), allowed=torch.from_numpy(allowed))

    rows = packed(*[("a red bag", None)] * 70, ("a boot", None), ("nothing", None))
    made = labelled(rows, task=TASK, predict=predict, hold="held", made_by="{}")
    masks = [decode_mask(one["bytes"], "mask") for one in made["mask"].to_pylist()]
    assert [set(mask.ravel().tolist()) for mask in masks] == [{BAG}] * 70 + [{BOOT}, {BOOT}]
    assert made["class_ids"][0].as_py() == [BAG] and made["class_pixels"][0].as_py() == [64]
    assert made["origin"].unique().to_pylist() == ["labelled"]
    assert made["image"].equals(rows["image"]), "pictures stay as they are"


@pytest.mark.ray
def test_pictures_of_a_slice_are_labelled_once_and_gone_on_with(ray_session, tmp_path):
    source = save_pairs(tmp_path / "pairs", 12)
    torch.manual_seed(0)
    TASK.save(TASK.build(), {}, tmp_path / "weights")
    config = LabelConfig(
        run="labels",
        runs=str(tmp_path),
        pairs=str(source),
        slice="4:",
        teacher=str(tmp_path / "weights"),
        hold="held",
        rows_per_shard=4,
        workers=Workers(cpus=0.5, threads=1),
    )
    label(config, TASK, "digest")
    made, ids = read_shards([str(tmp_path / "labels")]), sorted(read_shards([str(source)])["pair_id"].to_pylist())
    originals = read_shards([str(source)]).sort_by("pair_id").slice(4)
    assert sorted(made["image"].to_pylist(), key=str) == sorted(originals["image"].to_pylist(), key=str)
    assert not set(made["pair_id"].to_pylist()) & set(ids), "other masks, other pairs"
    for row in made.to_pylist():
        named = {one for one in range(9) if one and GARMENTS.classes[one] in row["prompt"]}
        assert set(row["class_ids"]) <= {0, *named}
    shards = list_shards(str(tmp_path / "labels"))
    Path(shards[0]).unlink()
    label(config, TASK, "digest")
    assert read_shards([str(tmp_path / "labels")]).sort_by("pair_id").equals(made.sort_by("pair_id"))
    with pytest.raises(ConfigError, match="teacher_digest: digest -> other"):
        label(config, TASK, "other")
