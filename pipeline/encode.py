"""Encode: pairs -> latent shards, once, so that training the joint network never runs an encoder."""

from __future__ import annotations

import math
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import ray
import ray.data
from pydantic import Field

from models.weights import ENCODERS, Encoders, WeightsError, digest
from pipeline.base.config import Config, Workers, absolute
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.cluster.connection import require
from pipeline.cluster.sink import WRITE_ARGS, ShardSink
from pipeline.cluster.tasks import beside_driver, get, plain_errors
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.stages.encode import EncodePairs, Views
from pipeline.stages.keep import KeepPlanned
from pipeline.storage.copies import local_copy
from pipeline.storage.files import is_folder
from pipeline.storage.publish import upload
from pipeline.tables.label_space import common_labels
from pipeline.tables.rows import left_out, read_ids, read_shards, read_texts, remaining
from pipeline.tables.schema import captions_of, latent_schema
from pipeline.tables.shards import MADE, list_shards, open_shard, remove_drafts

COLUMNS = ["pair_id", "prompt", "captions", "image", "mask"]
SAFE_TO_CHANGE = frozenset({"rows_per_shard", "batch_size", "retry_errors"})


class EncoderFolders(Config):
    """Where the frozen encoders come from: `weights` folders of trainings, or parts of a bundle; paths or URLs."""

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
    size_px: int = Field(0, ge=0)
    """Side of what is encoded: the shorter side of a picture becomes this, and its middle is taken (paper: 512).
    0 takes pictures as they are, all of one size."""
    crops: int = Field(0, ge=0)
    """Squares beside the one in the middle, drawn for every pair, each a row of its own."""
    crop_scale: float = Field(1.0, gt=0, le=1)
    """Least side of those, as a share of the picture's shorter side."""
    captions: int = Field(1, ge=1)
    """Captions of a pair that are encoded, each with a row of its own; pairs that have fewer give fewer rows."""
    flip: bool = False
    """Also encode everything mirrored. The prompt stays, so leave it off where prompts say left or right."""
    batch_size: int = Field(64, ge=1)
    """Rows that an encoder takes at once."""
    rows_per_shard: int = Field(2048, ge=1)
    """Latents per Parquet file."""
    retry_errors: bool = False
    """Try again the pairs that failed in an earlier start of this run."""
    workers: Workers = Workers(num=2, threads=1)
    """Encoding processes; with GPUs, one each."""

    @property
    def views(self) -> Views:
        """What is encoded of a pair."""
        return Views(self.size_px, self.crops, self.crop_scale, self.captions, self.flip)

    @property
    def kept_encoders(self) -> str:
        """Where the run keeps what makes its latents."""
        return f"{self.folder}/encoders"


def encode(config: EncodeConfig) -> None:
    """Writes the latents that `config.run` does not hold yet."""
    with Run.open(config, "encode", SAFE_TO_CHANGE, on_store=True) as run:
        folder = str(run.folder)
        remove_drafts(folder)
        encoders = collect_encoders(config)
        sources = [absolute(pairs) for pairs in config.pairs]
        # The list of all latents takes gigabytes where there are millions; a task gives them back.
        found = beside_driver(find_todo, num_returns=2).remote(sources, config, folder)
        todo, is_new = map(get, found)
        shapes = latent_shapes_of(encoders, sources, config.size_px)
        row_bytes = sum(2 * math.prod(shape) for shape in shapes.values())
        log.info(
            "encode: %s latents to make with encoders %s; float16, %.1f kB each, %.3g GB: %s",
            f"{todo.num_rows:,}", encoders.digest, row_bytes / 1e3, todo.num_rows * row_bytes / 1e9,
            ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()),
        )  # fmt: skip
        if todo.num_rows:
            require(config.workers)
            schema = latent_schema(shapes, encoders.digest)
            with plain_errors():
                graph(read_pairs(sources, COLUMNS), None if is_new else todo, config, run).write_datasink(
                    ShardSink(folder, config.rows_per_shard, schema), ray_remote_args=WRITE_ARGS
                )
        made, failed = len(read_ids(folder, "latent_id", [MADE])), len(left_out(folder))
        run.tracker.metrics({"latents": made, "errors": failed})
        log.info("encode: %s latents in %s", f"{made:,}", run.folder)
        if failed:
            log.warning("encode: %s pairs could not be read; %s/errors says why", f"{failed:,}", run.folder)


def collect_encoders(config: EncodeConfig) -> Encoders:
    """Copies the parts into the run and reads them, with the label space of the pairs. What made the latents that the
    run holds is never replaced.

    Raises:
        ConfigError: a part is missing, or the run holds latents of others: a network cannot learn from both.
    """
    given = config.encoders
    sources = {
        "text_encoder": f"{given.text}/text_encoder",
        "tokenizer": f"{given.text}/tokenizer",
        "image_encoder": f"{given.text}/image_encoder",
        "image_vae": given.image_vae,
        "annotation_vae": given.annotation_vae,
    }
    kept = config.kept_encoders
    with tempfile.TemporaryDirectory() as scratch:
        for name, source in sources.items():
            if not is_folder(absolute(source)):
                raise ConfigError(
                    f"{source}: no such folder; train that part first, or mend the key `encoders` ({name})"
                )
            shutil.copytree(local_copy(absolute(source)), f"{scratch}/{name}")
        common_labels(config.pairs).save(Path(scratch) / "label_space.json")
        encoders = Encoders.load(scratch)
        for shard in list_shards(str(config.folder)):
            with open_shard(shard) as file:
                made_by = file.schema_arrow.metadata[b"encoders"].decode()
            if made_by != encoders.digest:
                raise ConfigError(
                    f"{config.folder} holds latents of encoders {made_by}, but they are now {encoders.digest}; take "
                    "another --run name"
                )
        if not _holds(kept, encoders.digest):
            upload(scratch, kept)
    return encoders


def _holds(folder: str, wanted: str) -> bool:
    """Whether the encoders of digest `wanted` are there, all of them."""
    with suppress(WeightsError):  # of a start that was cut
        return is_folder(folder) and digest(local_copy(folder), ENCODERS) == wanted
    return False


def find_todo(sources: list[str], config: EncodeConfig, folder: str) -> tuple[pa.Table, bool]:
    """The latents that the run does not hold, and whether these are all."""
    planned = plan(sources, config.views)
    todo = remaining(planned, folder, config.retry_errors, key="latent_id")
    return todo, todo.num_rows == planned.num_rows


def plan(sources: list[str], views: Views) -> pa.Table:
    """One row per latent: `latent_id`, `pair_id`."""
    rows: list[tuple[str, str]] = []
    silent = 0
    pairs = read_texts(sources)
    for pair in pairs.to_pylist():
        texts = captions_of(pair)
        silent += not texts
        rows += [(key, pair["pair_id"]) for key in views.ids(pair["pair_id"], len(texts))]
    if silent:
        log.warning(
            "encode: %s of %s pairs have no caption, and teach nothing of prompts; jobs.caption makes some",
            f"{silent:,}",
            f"{pairs.num_rows:,}",
        )
    return pa.table({"latent_id": [key for key, _ in rows], "pair_id": [pair for _, pair in rows]})


def latent_shapes_of(encoders: Encoders, sources: list[str], size_px: int) -> dict[str, tuple[int, ...]]:
    """Shape of one row of each column, from the size of the pictures and the encoders.

    Raises:
        ConfigError: a size that the autoencoders cannot divide.
    """
    height = width = size_px
    if not size_px:
        first = read_shards(sources[:1], ["height", "width"]).slice(0, 1).to_pylist()[0]
        height, width = first["height"], first["width"]
    image_cells = 2 ** (len(encoders.image_vae.config.block_out_channels) - 1)
    mask_cells = encoders.annotation_vae.config.downsampling
    if any(side % cells for side in (height, width) for cells in (image_cells, mask_cells)):
        raise ConfigError(
            f"size_px: the autoencoders need sides that are multiples of {max(image_cells, mask_cells)}, pictures of "
            f"{width} x {height} are not"
        )
    return {
        "image_latent": (encoders.image_vae.config.latent_channels, height // image_cells, width // image_cells),
        "mask_latent": (encoders.annotation_vae.config.latent_channels, height // mask_cells, width // mask_cells),
        "image_embedding": (1, encoders.clip_image.config.projection_dim),
        "text_embedding": (encoders.text.num_tokens, encoders.text.width),
    }


def graph(pairs: ray.data.Dataset, todo: pa.Table | None, config: EncodeConfig, run: Run) -> ray.data.Dataset:
    """Pairs -> latents of those in `todo`, or of all."""
    workers = config.workers
    if todo is not None:
        pairs = pairs.map_batches(KeepPlanned(todo, "pair_id").__call__, batch_format="pyarrow", num_cpus=0.5)
    # Small files are read as one block, which would keep one encoder busy and the others idle.
    latents = pairs.repartition(target_num_rows_per_block=2 * config.batch_size).map_batches(
        EncodePairs,
        fn_constructor_args=(
            config.kept_encoders,
            config.views,
            "cuda" if workers.gpus else "cpu",
            workers.threads,
            config.batch_size,
        ),
        batch_size=config.batch_size,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        compute=ray.data.ActorPoolStrategy(size=workers.num),
    )
    if todo is None:
        return latents
    return latents.map_batches(KeepPlanned(todo, "latent_id", "error").__call__, batch_format="pyarrow", num_cpus=1)
