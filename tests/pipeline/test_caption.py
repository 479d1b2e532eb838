"""Captions go into the rows of a pair set, and nothing else changes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from models.weights import WeightsError
from pipeline.base.config import Workers
from pipeline.base.errors import DataError
from pipeline.caption import CaptionConfig, caption
from pipeline.cluster.sink import split_errors
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.stages.caption import CaptionPairs, has_captions
from pipeline.tables.conform import conform
from pipeline.tables.ids import pair_seed, real_pair_id
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import write_table
from tests.models.test_captioner import save_tiny_captioner
from tests.tiny import save_pairs

NUM_PAIRS = 9


def rows_of(prompts: list[str | None], captions: list[list[str] | None], broken: int = -1) -> pa.Table:
    """PAIR rows with pictures of their own; that of `broken` is none."""
    num = len(prompts)
    images = [encode_image(np.full((8, 8, 3), 20 * row, np.uint8)) for row in range(num)]
    values = {
        "pair_id": [real_pair_id("set", str(row)) for row in range(num)],
        "prompt": pa.array(prompts, pa.string()),
        "captions": pa.array(captions, pa.list_(pa.string())),
        "image": [b"no picture" if row == broken else image for row, image in enumerate(images)],
        "mask": [encode_mask(np.full((8, 8), row % 3, np.uint8)) for row in range(num)],
        "height": [8] * num,
        "width": [8] * num,
        "class_ids": [[row % 3] for row in range(num)],
        "class_pixels": [[64]] * num,
        "origin": ["real"] * num,
        "key": [str(row) for row in range(num)],
    }
    return conform(pa.table(values), PAIR)


class Stub:
    """Says which grey it sees, with which seed; nothing of black pictures."""

    def __init__(self) -> None:
        self.loads = 0
        self.calls: list[int] = []

    def load(self) -> Stub:
        self.loads += 1
        return self

    def __call__(self, images: list[np.ndarray], *, seeds: list[int]) -> list[list[str]]:
        self.calls.append(len(images))
        pairs = zip((int(image[0, 0, 0]) for image in images), seeds, strict=True)
        return [[f" grey {grey} ", "", f"grey {grey}", f"seed {seed}"] if grey else [" "] for grey, seed in pairs]


def test_rows_get_captions_and_keep_all_else():
    stub, rows = Stub(), rows_of([None, None, "", "mine"], [None, None, [], ["mine", "too"]])
    made, failed = split_errors(CaptionPairs(stub.load, batch_size=8, run_seed=3)(rows))
    assert failed.select(["pair_id", "reason"]).to_pylist() == [
        {"pair_id": real_pair_id("set", "0"), "reason": "no_caption"}
    ]
    seeds = [pair_seed(3, real_pair_id("set", str(row)), 0) for row in (1, 2)]
    assert made["captions"].to_pylist() == [
        ["grey 20", f"seed {seeds[0]}"], ["grey 40", f"seed {seeds[1]}"], ["mine", "too"],
    ]  # fmt: skip
    assert made["prompt"].to_pylist() == ["grey 20", "grey 40", "mine"]
    same = [name for name in PAIR.names if name not in ("prompt", "captions")]
    assert made.select(same).equals(rows.slice(1).select(same))
    assert (stub.loads, stub.calls) == (1, [8]), "one shape, whatever the number of rows"


def test_captions_that_are_there_stay_and_need_no_model():
    stub = Stub()
    rows = rows_of(["mine", "mine", None], [None, ["mine"], ["ours"]])
    stage = CaptionPairs(stub.load, batch_size=4)
    assert stage(rows).select(PAIR.names).equals(rows) and stub.loads == 0
    assert has_captions(rows_of([" ", None, "a"], [[], None, None])).tolist() == [False, False, True]
    assert stage(rows.slice(0, 0)).num_rows == 0
    anew = CaptionPairs(stub.load, batch_size=4, keep=False)(rows)
    assert anew["prompt"].to_pylist()[1:] == ["grey 20", "grey 40"] and stub.loads == 1


def test_a_broken_picture_is_an_error_row():
    made = CaptionPairs(Stub().load, batch_size=4)(rows_of([None] * 3, [None] * 3, broken=1))
    assert made["error"].to_pylist() == ["no_caption", "undecodable_input", ""]
    assert "not a picture that can be decoded" in made["error_detail"][1].as_py()


@pytest.fixture
def config(tmp_path):
    source = save_pairs(tmp_path / "kept", 3)
    (tmp_path / "mute").mkdir()
    write_table(rows_of([None] * NUM_PAIRS, [None] * NUM_PAIRS, broken=4), f"{tmp_path}/mute/shards")
    (tmp_path / "mute" / "label_space.json").write_bytes((source / "label_space.json").read_bytes())
    return CaptionConfig(
        run="captioned",
        runs=str(tmp_path / "runs"),
        pairs=(str(source), str(tmp_path / "mute")),
        model=str(save_tiny_captioner(tmp_path / "model")),
        precision="float32",
        num_captions=2,
        max_new_tokens=6,
        batch_size=4,
        rows_per_shard=4,
        workers=Workers(threads=1),
    )


def test_a_wrong_folder_or_model_is_told_before_anything_is_begun(config, tmp_path):
    with pytest.raises(DataError, match="nowhere/label_space.json: missing"):
        caption(config.model_copy(update={"pairs": (str(tmp_path / "nowhere"),)}))
    with pytest.raises(WeightsError, match=r"kept: cannot be read as a folder with a captioner"):
        caption(config.model_copy(update={"model": str(tmp_path / "kept")}))
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
def test_captioning_goes_on_where_it_stopped(config, ray_session):
    source = read_shards(list(config.pairs))
    stage = CaptionPairs(partial(config.captioner, ""), batch_size=4)
    alone = pa.concat_tables(stage(source.slice(start, 4)) for start in range(0, source.num_rows, 4))
    wanted = split_errors(alone)[0].select(PAIR.names).sort_by("pair_id")
    write_table(conform(wanted.slice(2, 5), PAIR), f"{config.folder}/shards")  # what a start that was killed has left

    manifest = caption(config)
    assert (manifest.num_pairs, manifest.errors_by_reason) == (NUM_PAIRS - 1 + 3, {"undecodable_input": 1})
    made = read_shards([str(config.folder)]).sort_by("pair_id")
    assert made.equals(wanted), "captions do not depend on what was left to do"
    own = [row for row in made.to_pylist() if row["key"] is not None]
    assert len(own) == NUM_PAIRS - 1 and all(row["prompt"] == row["captions"][0] for row in own)
    assert any(len(row["captions"]) == 2 for row in own)
