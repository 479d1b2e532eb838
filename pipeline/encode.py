"""Encode: pairs -> latent shards, once, so that training the joint network never runs an encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import ray.data
from pydantic import Field

from models.weights import Encoders
from pipeline.cluster import require
from pipeline.config import Config, RunConfig, Workers, absolute
from pipeline.errors import ConfigError
from pipeline.run import Run, log
from pipeline.schema import latent_id, latent_schema
from pipeline.shards import (
    common_labels,
    list_shards,
    open_shard,
    read_ids,
    read_pairs,
    read_shards,
    remaining,
    remove_drafts,
)
from pipeline.sink import WRITE_ARGS, ShardSink
from pipeline.stages.encode import EncodePairs
from pipeline.stages.keep import KeepPlanned

SAFE_TO_CHANGE = frozenset({"rows_per_shard", "batch_size"})


class EncoderFolders(Config):
    """Where the frozen encoders come from: `weights` folders of trainings, or parts of a bundle."""

    text: str
    """Holds text_encoder/, tokenizer/ and image_encoder/ (the two towers of one CLIP)."""
    image_vae: str
    """The image autoencoder, as diffusers saves it."""
    annotation_vae: str
    """The annotation VAE."""


class EncodeConfig(RunConfig):
    """Turns pairs into latents for training the joint network."""

    pairs: tuple[str, ...] = Field(min_length=1)
    """Folders of runs whose pairs are encoded; several count as one set."""
    encoders: EncoderFolders
    """The encoders; they are copied into <run>/encoders, and training takes them from there."""
    flip: bool = False
    """Also encode every mirrored pair. Its prompt stays, so leave it off where prompts say left or right."""
    batch_size: int = Field(64, ge=1)
    """Pairs that an encoder takes at once."""
    rows_per_shard: int = Field(2048, ge=1)
    """Latents per Parquet file."""
    workers: Workers = Workers(num=2, threads=1)
    """Encoding processes; with GPUs, one each."""


def encode(config: EncodeConfig) -> None:
    """Writes the latents that `config.run` does not hold yet."""
    with Run.open(config, "encode", SAFE_TO_CHANGE) as run:
        folder = str(run.folder)
        remove_drafts(folder)
        encoders = collect_encoders(config, run.folder / "encoders")
        sources = [absolute(pairs) for pairs in config.pairs]
        refuse_other_encoders(folder, encoders.digest)
        todo = remaining(plan(sources, config.flip), folder, key="latent_id")
        log.info("encode: %d latents to make with encoders %s", todo.num_rows, encoders.digest)
        if todo.num_rows:
            require(config.workers)
            schema = latent_schema(latent_shapes_of(encoders, sources), encoders.digest)
            graph(read_pairs(sources, ["pair_id", "prompt", "image", "mask"]), todo, config, run).write_datasink(
                ShardSink(folder, config.rows_per_shard, schema), ray_remote_args=WRITE_ARGS
            )
        made = len(read_ids(folder, "latent_id"))
        run.tracker.metrics({"latents": made})
        log.info("encode: %d latents in %s", made, run.folder)


def refuse_other_encoders(folder: str, found: str) -> None:
    """Raises ConfigError where a run holds latents of other encoders: a network cannot learn from both."""
    for shard in list_shards(folder):
        with open_shard(shard) as file:
            made_by = file.schema_arrow.metadata[b"encoders"].decode()
        if made_by != found:
            raise ConfigError(
                f"{folder} holds latents of encoders {made_by}, but they are now {found}; take another --run name"
            )


def collect_encoders(config: EncodeConfig, folder: Path) -> Encoders:
    """Copies the parts into `folder` and reads them, with the label space of the pairs."""
    sources = {
        "text_encoder": Path(config.encoders.text) / "text_encoder",
        "tokenizer": Path(config.encoders.text) / "tokenizer",
        "image_encoder": Path(config.encoders.text) / "image_encoder",
        "image_vae": Path(config.encoders.image_vae),
        "annotation_vae": Path(config.encoders.annotation_vae),
    }
    for name, source in sources.items():
        if not source.is_dir():
            raise ConfigError(f"{source}: no such folder; train that part first, or mend the key `encoders` ({name})")
        shutil.copytree(source, folder / name, dirs_exist_ok=True)
    common_labels(config.pairs).save(folder / "label_space.json")
    return Encoders.load(folder)


def plan(sources: list[str], flip: bool) -> pa.Table:
    """One row per latent: `latent_id`, `pair_id`."""
    ids = read_shards(sources, ["pair_id"])["pair_id"].to_pylist()
    rows = [(latent_id(row, flipped), row) for row in ids for flipped in ((False, True) if flip else (False,))]
    return pa.table({"latent_id": [key for key, _ in rows], "pair_id": [row for _, row in rows]})


def latent_shapes_of(encoders: Encoders, sources: list[str]) -> dict[str, tuple[int, ...]]:
    """Shape of one row of each column, from the size of the pictures and the encoders."""
    size = read_shards(sources[:1], ["height", "width"]).slice(0, 1).to_pylist()[0]
    cells = encoders.annotation_vae.config.downsampling
    image_cells = 2 ** (len(encoders.image_vae.config.block_out_channels) - 1)
    return {
        "image_latent": (
            encoders.image_vae.config.latent_channels,
            size["height"] // image_cells,
            size["width"] // image_cells,
        ),
        "mask_latent": (
            encoders.annotation_vae.config.latent_channels,
            size["height"] // cells,
            size["width"] // cells,
        ),
        "image_embedding": (1, encoders.clip_image.config.projection_dim),
        "text_embedding": (encoders.text.num_tokens, encoders.text.width),
    }


def graph(pairs: ray.data.Dataset, todo: pa.Table, config: EncodeConfig, run: Run) -> ray.data.Dataset:
    """Pairs -> latents of those in `todo`."""
    workers = config.workers
    wanted = pairs.map_batches(KeepPlanned(todo, "pair_id").__call__, batch_format="pyarrow", num_cpus=0.5)
    # Small files are read as one block, which would keep one encoder busy and the others idle.
    spread = wanted.repartition(target_num_rows_per_block=2 * config.batch_size)
    return spread.map_batches(
        EncodePairs,
        fn_constructor_args=(
            str(run.folder / "encoders"),
            config.flip,
            "cuda" if workers.gpus else "cpu",
            workers.threads,
        ),
        batch_size=config.batch_size,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        compute=ray.data.ActorPoolStrategy(size=workers.num),
    ).map_batches(KeepPlanned(todo, "latent_id").__call__, batch_format="pyarrow", num_cpus=1)
