"""Encoders and their latents stay together, and what is there is not encoded again."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from models.weights import ENCODERS, digest
from pipeline.base.errors import ConfigError
from pipeline.encode import collect_encoders, find_todo
from tests.pipeline.fabricated import encode_config, save_latents, train_other_encoders


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
