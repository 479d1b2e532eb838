"""Captioning goes on where it stopped, and what is wrong is told before anything is begun."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pytest

from models.weights import WeightsError
from pipeline.base.config import Workers
from pipeline.base.errors import DataError
from pipeline.caption import CaptionConfig, caption, tell_of_bare
from pipeline.cluster.sink import split_errors
from pipeline.stages.caption import CaptionPairs
from pipeline.tables.conform import conform
from pipeline.tables.rows import read_shards, read_texts
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import write_table
from tests.models.fabricated import save_tiny_captioner
from tests.pipeline.stages.fabricated import rows_of
from tests.tiny import save_pairs

NUM_PAIRS = 9


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


def test_pictures_of_which_rules_have_nothing_to_say_are_told(tmp_path, caplog):
    tell_of_bare(read_texts([str(save_pairs(tmp_path / "masks", 3))]))
    assert not caplog.text
    bare = rows_of([None, "a bag", None], [None, ["a bag"], None])
    place = bare.schema.get_field_index("class_ids")
    bare = bare.set_column(place, bare.schema.field(place), pa.array([[]] * 3, bare.schema.field(place).type))
    write_table(bare, f"{tmp_path}/bare/shards")
    tell_of_bare(read_texts([str(tmp_path / "masks"), str(tmp_path / "bare")]))
    assert "2 of 6 pictures have neither a mask nor a caption" in caplog.text and "--captions" in caplog.text


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
    own = [row for row in made.to_pylist() if row["dataset"] != "tiny"]
    assert len(own) == NUM_PAIRS - 1 and all(row["prompt"] == row["captions"][0] for row in own)
    assert any(len(row["captions"]) == 2 for row in own)
