"""Encoders and their latents stay together: others are refused, by the job that encodes and by the one that trains."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.diffusion import Diffusion
from models.jodiffusion import JoDiffusionConfig
from models.weights import ENCODERS, digest
from pipeline.base.errors import ConfigError
from pipeline.encode import EncodeConfig, EncoderFolders, collect_encoders, find_todo
from pipeline.stages.encode import LATENTS
from pipeline.tables.schema import latent_schema
from pipeline.tables.shards import write_table
from pipeline.training.loop import Optimisation
from pipeline.training.tasks.joint import JointConfig, check_latents
from tests.tiny import save_pairs, tiny_encoders

SHAPES = {"image_latent": (4, 4, 4), "mask_latent": (4, 4, 4), "image_embedding": (1, 8), "text_embedding": (12, 16)}


@pytest.fixture
def config(tmp_path):
    save_pairs(tmp_path / "pairs", 6, size_px=32)
    tiny_encoders().save(tmp_path / "parts")
    return EncodeConfig(
        run="latents",
        runs=str(tmp_path),
        pairs=(str(tmp_path / "pairs"),),
        encoders=EncoderFolders(
            text=str(tmp_path / "parts"),
            image_vae=str(tmp_path / "parts/image_vae"),
            annotation_vae=str(tmp_path / "parts/annotation_vae"),
        ),
    )


def save_latents(config, keys, encoders):
    rows: dict[str, list] = {"latent_id": keys, "pair_id": keys, "flipped": [False] * len(keys)}
    rows |= {name: [b"\0"] * len(keys) for name in LATENTS}
    schema = latent_schema(SHAPES, encoders)
    columns = [pa.array(rows.get(field.name, [None] * len(keys)), field.type) for field in schema]
    write_table(pa.table(columns, schema=schema), f"{config.folder}/shards")


def train_other_encoders(config):
    """What another training leaves in the same place."""
    encoders = tiny_encoders()
    with torch.no_grad():
        next(encoders.annotation_vae.parameters()).add_(1)
    encoders.save(config.encoders.text)


def test_other_encoders_are_refused_and_those_of_the_run_are_kept(config):
    kept = collect_encoders(config).digest
    save_latents(config, ["a"], kept)
    assert collect_encoders(config).digest == kept, "the same ones go on"
    train_other_encoders(config)

    with pytest.raises(ConfigError, match=f"holds latents of encoders {kept}, but they are now"):
        collect_encoders(config)

    assert digest(config.folder / "encoders", ENCODERS) == kept


def test_stale_latents_are_refused_by_the_training(config):
    made_by = collect_encoders(config).digest
    save_latents(config, ["a"], made_by)
    folder = str(config.folder)
    net = JoDiffusionConfig(latent_size=4, num_text_tokens=12, text_width=16, clip_image_width=8)
    joint = JointConfig(
        run="joint",
        train=(folder,),
        validation=folder,
        net=net,
        optimisation=Optimisation(num_examples=1, batch_size=1),
    )
    assert check_latents(joint) == SHAPES
    for key, value in (("net", replace(net, mask_time=True)), ("diffusion", Diffusion(mask_time="independent"))):
        with pytest.raises(ConfigError, match="need both --net.mask-time and --diffusion.mask-time independent"):
            check_latents(joint.model_copy(update={key: value}))

    train_other_encoders(config)
    tiny_encoders().save(config.folder / "encoders")
    (config.folder / "encoders" / "annotation_vae" / "model.safetensors").write_bytes(b"another")

    with pytest.raises(ConfigError, match=f"its latents are of encoders {made_by}, but those in its folder encoders/"):
        check_latents(joint)


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
