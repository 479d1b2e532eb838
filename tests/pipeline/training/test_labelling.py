"""A teacher's masks for pictures: free, or held to the classes that their captions name."""

from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.labels import GARMENTS, LabelSpace
from models.segmenter import Segmenter
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.pictures.codec import decode_mask, encode_image, encode_mask
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import PAIR, PICTURE
from pipeline.tables.shards import list_shards
from pipeline.training.labelling import Answers, Labelling, label, labelled, left_unnamed, tell_named
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


class Sure(Segmenter):
    """Sees boots everywhere, bags second to them: e^2 to e to 1 of each other class."""

    def __init__(self, boots: float = 2.0) -> None:
        super().__init__()
        self.boots = boots

    def scores(self, image):
        scores = torch.zeros(len(image), GARMENTS.num_classes + 1, *image.shape[2:])
        scores[:, BOOT], scores[:, BAG] = self.boots, 1
        return scores


def answered(rows: pa.Table, answers: Answers, *nets: Segmenter) -> list[dict]:
    def predict(image, weights):
        return TASK.answer(nets or [Sure()], torch.from_numpy(image), torch.from_numpy(weights))

    return labelled(rows, task=TASK, predict=predict, answers=answers, made_by="{}").to_pylist()


def classes_of(row) -> list[int]:
    mask = decode_mask(row["mask"]["bytes"], "mask")
    assert row["class_ids"] == np.unique(mask).tolist() and row["class_pixels"] == [64]
    return row["class_ids"]


@pytest.mark.parametrize(("hold", "others"), [("held", 0.0), ("soft", 0.25), ("free", 1.0)])
def test_classes_that_no_caption_names_weigh_less(hold, others):
    rows = packed(("a red bag", None), ("a red bag", ["a red bag on sand", "two boots"]), ("something", None), ("", []))
    seen = [Answers(hold, unnamed=0.25).weights(row, GARMENTS).tolist() for row in rows.to_pylist()]
    one, two = np.full((2, GARMENTS.num_classes + 1), others)
    one[[0, BAG]] = two[[0, BAG, BOOT]] = 1
    assert seen == [one.tolist(), two.tolist(), *[[1.0] * (GARMENTS.num_classes + 1)] * 2]


def test_what_a_prompt_is_known_to_ask_for_counts_as_named():
    weights = Answers("held").weights({"prompt": "a thing to carry", "prompt_class_ids": [BAG]}, GARMENTS)
    assert np.flatnonzero(weights).tolist() == [0, BAG]


def test_a_teacher_that_is_held_answers_the_best_class_that_is_named():
    rows = packed(*[("a red bag", None)] * 70, ("a boot", None), ("nothing", None))
    made = labelled(
        rows,
        task=TASK,
        predict=lambda image, weights: TASK.answer([Sure()], torch.from_numpy(image), torch.from_numpy(weights)),
        answers=Answers("held"),
        made_by="{}",
    )
    assert [classes_of(row) for row in made.to_pylist()] == [[BAG]] * 70 + [[BOOT], [BOOT]]
    assert made["origin"].unique().to_pylist() == ["labelled"]
    assert made["image"].equals(rows["image"]), "pictures stay as they are"


def test_softly_held_a_class_that_is_not_named_must_be_seen_the_more_clearly():
    rows = packed(("a red bag", None))
    assert [classes_of(*answered(rows, Answers("soft", unnamed=one))) for one in (0.5, 0.3)] == [[BOOT], [BAG]]


def test_how_sure_it_was_is_kept_and_pixels_below_are_ignored():
    (row,) = answered(packed(("a red bag", None)), Answers("held"))
    share = math.e / (math.e + 1)  # of bags, where only background is allowed beside
    assert decode_mask(row["confidence"]["bytes"], "").ravel().tolist() == [round(255 * share)] * 64
    assert row["confidence_mean"] == pytest.approx(share, abs=0.002)
    for below, seen in ((share - 0.01, BAG), (share + 0.01, 255)):
        assert classes_of(*answered(packed(("a red bag", None)), Answers("held", ignore_below=below))) == [seen]


def test_masks_that_are_there_stay_where_the_teacher_agrees():
    rows = packed(("a red bag", None))
    own = np.full((8, 8), BAG, np.uint8)
    own[:, :3] = BOOT
    rows = rows.append_column(PAIR.field("mask"), pa.array([{"bytes": encode_mask(own), "path": None}], PICTURE))
    (row,) = answered(rows, Answers("held", agree=True))
    mask = decode_mask(row["mask"]["bytes"], "mask")
    assert np.unique(mask[:, 3:]).tolist() == [BAG] and np.unique(mask[:, :3]).tolist() == [255]
    assert Answers("held", agree=True).made_by("x") != Answers("held").made_by("x")


def test_several_teachers_vote_with_their_shares():
    rows = packed(("a bag and a boot", None))
    assert classes_of(*answered(rows, Answers("held"), Sure(0), Sure(0), Sure(2))) == [BAG]
    assert classes_of(*answered(rows, Answers("held"), Sure(0), Sure(4), Sure(4))) == [BOOT]


def test_how_often_captions_leave_a_class_out_is_measured(tmp_path):
    folder = save_pairs(tmp_path / "pairs", 40)
    assert left_unnamed(str(folder), ":", GARMENTS) == pytest.approx(0, abs=0.02)
    (shard, *others) = list_shards(str(folder))
    for other in others:
        Path(other).unlink()
    rows = pq.read_table(shard)
    first = pa.array(["a " + GARMENTS.classes[ids[1]] for ids in rows["class_ids"].to_pylist()])
    pq.write_table(rows.set_column(rows.schema.get_field_index("prompt"), "prompt", first), shard)
    counts = [len(ids) - 1 for ids in rows["class_ids"].to_pylist()]
    left = (sum(counts) - len(counts) + 0.5) / (sum(counts) + 1)
    assert left_unnamed(str(folder), ":", GARMENTS) == pytest.approx(left) and left > 0.2


def test_pictures_of_which_only_what_their_prompt_asked_for_is_known_count_as_named(tmp_path):
    folder = str(save_pairs(tmp_path, 4, num_shards=1))
    (shard,) = list_shards(folder)
    rows = pq.read_table(shard)
    for name, values in (("prompt", [""] * 4), ("prompt_class_ids", [[BAG], [BAG], [], None])):
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, PAIR.field(name).type))
    pq.write_table(rows, shard)
    assert tell_named(folder, ":", "all", GARMENTS) == 0.5


def test_classes_that_prompts_of_generated_pairs_asked_for_are_no_unnamed_ones(monkeypatch):
    labels = LabelSpace.custom("two", ("dog", "cat"))
    rows = [{"pair_id": str(one), "prompt": "an animal", "captions": None, "prompt_class_ids": [one]} for one in (1, 2)]

    said: list[str] = []
    monkeypatch.setattr("pipeline.base.log.log.warning", lambda text, *values: said.append(text % values))

    def told(some) -> list[str]:
        said.clear()
        with (
            patch("pipeline.training.labelling.ids_of", lambda *_: [row["pair_id"] for row in some]),
            patch("pipeline.training.labelling.read_texts", lambda _: pa.Table.from_pylist(some)),
        ):
            assert tell_named("any", ":", "all", labels) == 1
        return [*said]

    assert told(rows) == []
    assert [line.split(" (")[0] for line in told(rows[:1])] == ["label: no caption names cat"]


@pytest.mark.ray
def test_pictures_of_a_slice_are_labelled_once_and_gone_on_with(ray_session, tmp_path):
    source = save_pairs(tmp_path / "pairs", 12)
    torch.manual_seed(0)
    TASK.save(TASK.build(), {}, tmp_path / "weights")
    config = Labelling(
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
