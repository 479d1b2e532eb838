"""Encoders and their latents stay together, and what is there is not encoded again."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.weights import ENCODERS, digest
from pipeline.base.errors import ConfigError, ShardError
from pipeline.encode import EncodeConfig, collect_encoders, find_todo, latents_of
from pipeline.stages.encode import Views
from pipeline.training.order import ids_of
from tests.pipeline.fabricated import encode_config, save_latents, train_other_encoders
from tests.tiny import save_pairs


@pytest.fixture
def config(tmp_path):
    return encode_config(tmp_path)


def test_other_encoders_are_refused_and_those_of_the_run_are_kept(config):
    kept = collect_encoders(config).digest
    save_latents(config, ["a"], kept)
    assert collect_encoders(config).digest == kept, "the same ones go on"
    train_other_encoders(config)

    with pytest.raises(ConfigError, match=f"holds latents of encoders {kept}, but they are now"):
        collect_encoders(config)

    assert digest(config.folder / "encoders", ENCODERS) == kept


def test_what_is_there_is_not_encoded_again(config):
    sources = [str(config.pairs[0])]
    todo, planned = find_todo(sources, config, str(config.folder))
    assert (todo.num_rows, planned) == (6, 6)
    save_latents(config, todo["latent_id"].to_pylist()[:2], "")

    left, planned = find_todo(sources, config.model_copy(update={"flip": True}), str(config.folder))

    assert (left.num_rows, planned) == (10, 12)


def test_pairs_of_an_older_release_have_their_prompt_encoded(config, tmp_path):
    (shard, *others) = (tmp_path / "pairs/shards").iterdir()
    for other in others:
        other.unlink()
    rows = pq.read_table(shard)
    pq.write_table(rows.drop_columns(["captions", "dataset", "split", "key"]), shard)

    todo, _ = find_todo([str(config.pairs[0])], config.model_copy(update={"captions": 5}), str(config.folder))

    assert sorted(todo["latent_id"].to_pylist()) == sorted(rows["pair_id"].to_pylist())


def test_labelled_pictures_and_others_can_be_encoded_apart(config, tmp_path):
    folder = str(save_pairs(tmp_path / "some", 6, num_labelled=2))

    found = {
        which: find_todo([folder], config.model_copy(update={"pictures": which}), str(config.folder))[0]["pair_id"]
        for which in ("all", "labelled", "unlabelled")
    }

    assert [len(ids) for ids in found.values()] == [6, 2, 4]
    assert sorted(found["labelled"].to_pylist()) == ids_of(folder, which="labelled")
    assert set(found["labelled"].to_pylist() + found["unlabelled"].to_pylist()) == set(found["all"].to_pylist())
    with pytest.raises(ConfigError, match="hold no unlabelled pictures"):
        latents_of(list(config.pairs), config.views, "unlabelled")


def test_a_slice_of_a_run_is_encoded_alone(config, tmp_path):
    folder = str(save_pairs(tmp_path / "some", 6, num_labelled=2))
    sliced = config.model_copy(update={"slices": ("2:5",)})

    todo, planned = find_todo([folder], sliced, str(config.folder))

    assert planned == 3 and sorted(todo["pair_id"].to_pylist()) == ids_of(folder, "2:5")
    unlabelled = latents_of([folder, folder], config.views, "unlabelled", ["0:3", "3:"])["pair_id"].to_pylist()
    assert sorted(unlabelled) == ids_of(folder, which="unlabelled")
    with pytest.raises(ShardError, match="the slice 2:9 asks for more than its 6 pairs"):
        latents_of([folder], config.views, slices=["2:9"])
    with pytest.raises(ValueError, match="slices has 2 entries, but pairs has 1 folders"):
        EncodeConfig(**config.dump() | {"slices": ["0:2", "2:"]})


def test_a_prompt_that_cannot_be_mirrored_is_told_before_anything_is_made(tmp_path):
    folder = save_pairs(tmp_path / "some", 6)
    (shard, *_) = (folder / "shards").iterdir()
    rows = pq.read_table(shard)
    texts = pa.array(["the leftmost bag"] * rows.num_rows)
    pq.write_table(rows.set_column(rows.schema.get_field_index("prompt"), "prompt", texts), shard)

    with pytest.raises(ConfigError, match=r"mirrored_words: 'leftmost' holds 'left'.* of pair .*name the word there"):
        latents_of([str(folder)], Views(flip=True))

    named = Views(flip=True, mirrored_words={"left": "right", "leftmost": "rightmost"})
    assert latents_of([str(folder)], named).num_rows == 12
