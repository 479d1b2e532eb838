"""Encode: pairs -> latent shards, once, so that training the joint network never runs an encoder."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from pydantic import Field, model_validator

from models.weights import ENCODERS, Encoders, WeightsError, digest
from pipeline.base.config import Config, Workers
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import Folder
from pipeline.cluster.drive import Left, drive
from pipeline.cluster.finish import heal_run
from pipeline.cluster.processes import Stage, in_processes
from pipeline.cluster.progress import Shared
from pipeline.cluster.tasks import MAX_RETRIES, beside_driver, get
from pipeline.prompts.mirror import SIDES
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.stages.encode import EncodePairs, Views
from pipeline.stages.keep import KeepPlanned
from pipeline.storage.copies import local_copy
from pipeline.storage.files import is_folder
from pipeline.storage.publish import upload
from pipeline.tables.label_space import common_labels
from pipeline.tables.rows import Which, left_out, read_ids, read_shards, read_texts, remaining
from pipeline.tables.schema import captions_of, latent_schema
from pipeline.tables.shards import MADE, list_shards, open_shard, remove_drafts
from pipeline.training.config import require_one_each
from pipeline.training.order import ids_of, require_rows

COLUMNS = ["pair_id", "prompt", "captions", "image", "mask", "origin"]
SAFE_TO_CHANGE = frozenset({"rows_per_shard", "batch_size", "retry_errors", "log_every_s"})


class EncoderFolders(Config):
    """Where the frozen encoders come from: `weights` folders of trainings, or parts of a bundle; paths or URLs."""

    text: Folder
    """Holds text_encoder/, tokenizer/ and image_encoder/ (the two towers of one CLIP)."""
    image_vae: Folder
    """The image autoencoder, as diffusers saves it."""
    annotation_vae: Folder
    """The annotation VAE."""


class EncodeConfig(RunConfig):
    """Turns pairs into latents for training the joint network."""

    pairs: tuple[Folder, ...] = Field(min_length=1)
    """Folders of runs whose pairs are encoded; several count as one set."""
    slices: tuple[str, ...] = ()
    """Which pairs of each, as START:STOP in the order of their ids; empty takes all."""
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
    """Also encode everything mirrored; in the prompts `mirrored_words` change places."""
    mirrored_words: dict[str, str] = Field(default_factory=SIDES.copy)
    """Words that are each other's opposite in a mirrored picture, {left: right}. Prompts with longer words that hold
    one, such as "leftmost", are refused until they are named too, those that say no side ("bright") with themselves;
    common ones of these are known. {} leaves prompts as they are."""
    pictures: Which = "all"
    """Which pictures are encoded: those with masks, those without, or all; so that trainings can mix the two by shares
    of their own."""
    batch_size: int = Field(64, ge=1)
    """Rows that an encoder takes at once."""
    rows_per_shard: int = Field(2048, ge=1)
    """Latents per Parquet file."""
    retry_errors: bool = False
    """Try again the pairs that failed in an earlier start of this run."""
    workers: Workers = Workers(num=2, threads=1)
    """Encoding processes; with GPUs, one each."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines, and between points in MLflow."""

    @model_validator(mode="after")
    def _one_slice_for_each_folder(self) -> EncodeConfig:
        require_one_each(self.pairs, self.slices, key="pairs")
        return self

    def check_inputs(self) -> None:
        super().check_inputs()
        require_rows(self.pairs, self.slices)

    @property
    def views(self) -> Views:
        """What is encoded of a pair."""
        return Views(self.size_px, self.crops, self.crop_scale, self.captions, self.flip, self.mirrored_words)

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
        sources = list(config.pairs)

        def find(config: EncodeConfig) -> tuple[Left, int]:
            # The list of all latents takes gigabytes where there are millions; a task gives them back.
            todo, planned = map(get, beside_driver(find_todo, num_returns=2).remote(sources, config, folder))
            whole = config.pictures == "all" and not config.slices
            chosen = None if todo.num_rows == planned and whole else todo
            return Left(
                todo.num_rows,
                lambda shared: graph(read_pairs(list(dict.fromkeys(sources)), COLUMNS), chosen, config, shared),
            ), planned

        left, planned = find(config)
        shapes = latent_shapes_of(encoders, sources, config.size_px)
        row_bytes = sum(2 * math.prod(shape) for shape in shapes.values())
        log.info(
            "encode: %s latents to make with encoders %s; float16, %.1f kB each, %.3g GB: %s",
            f"{left.num:,}", encoders.digest, row_bytes / 1e3, left.num * row_bytes / 1e9,
            ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()),
        )  # fmt: skip
        drive(
            run,
            "encode",
            left,
            lambda: find(config.model_copy(update={"retry_errors": False}))[0],
            planned=planned,
            stages={"encode": config.workers.num},
            workers=config.workers,
            schema=latent_schema(shapes, encoders.digest),
            rows_per_shard=config.rows_per_shard,
            noun="latents",
            close=close,
            every_s=config.log_every_s,
        )
        close(run)


def close(run: Run) -> int:
    """Removes what is there twice, and says what the run holds; returns the number of latents."""
    folder = str(run.folder)
    heal_run(folder)
    made, failed = len(read_ids(folder, "latent_id", [MADE])), len(left_out(folder))
    run.tracker.metrics({"latents": made, "errors": failed})
    log.info("encode: %s latents in %s", f"{made:,}", folder)
    if failed:
        log.warning("encode: %s pairs could not be read; %s/errors says why", f"{failed:,}", folder)
    return made


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
            if not is_folder(source):
                raise ConfigError(
                    f"{source}: no such folder; train that part first, or correct the key `encoders` ({name})"
                )
            shutil.copytree(local_copy(source), f"{scratch}/{name}")
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


def find_todo(sources: list[str], config: EncodeConfig, folder: str) -> tuple[pa.Table, int]:
    """The latents that the run does not hold, and how many there will be."""
    planned = latents_of(sources, config.views, config.pictures, config.slices)
    return remaining(planned, folder, config.retry_errors, key="latent_id"), planned.num_rows


def latents_of(sources: list[str], views: Views, pictures: Which = "all", slices: Sequence[str] = ()) -> pa.Table:
    """One row per latent: `latent_id`, `pair_id`.

    Raises:
        ConfigError: a prompt that cannot be mirrored, or no such pictures.
        ShardError: a slice that asks for more pairs than there are.
    """
    rows: list[tuple[str, str]] = []
    silent = 0
    pairs = read_texts(list(dict.fromkeys(sources)))
    if pictures != "all" or slices:
        taken = {
            one for args in zip(sources, slices or [":"] * len(sources), strict=True) for one in ids_of(*args, pictures)
        }
        pairs = pairs.filter(pc.is_in(pairs["pair_id"], pa.array(taken, pa.string())))
        if not pairs.num_rows:
            raise ConfigError(f"pictures: {', '.join(sources)} hold no {pictures} pictures; give other runs, or all")
    for pair in pairs.to_pylist():
        texts = captions_of(pair)
        silent += not texts
        if views.flip:
            try:
                for text in texts[: views.captions]:
                    views.text(text)
            except ValueError as error:
                raise ConfigError(
                    f"mirrored_words: {error}, in {texts!r} of pair {pair['pair_id']}; name the word there with its "
                    "opposite (with itself where it says no side), or leave flip out"
                ) from error
        rows += [(key, pair["pair_id"]) for key in views.ids(pair["pair_id"], len(texts))]
    if silent:
        log.warning(
            "encode: %s of %s pairs have no caption, so prompts are not learned from them; run jobs.caption first",
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


def make_encoder(folder: str, config: EncodeConfig) -> Stage:
    """The stage of an encoding process."""
    device = "cuda" if config.workers.gpus else "cpu"
    return EncodePairs(folder, config.views, device, config.batch_size)


def graph(pairs: ray.data.Dataset, todo: pa.Table | None, config: EncodeConfig, shared: Shared) -> ray.data.Dataset:
    """Pairs -> latents of those in `todo`, or of all."""
    if todo is not None:
        pairs = pairs.map_batches(
            KeepPlanned(todo, "pair_id").__call__, batch_format="pyarrow", num_cpus=0.5, max_retries=MAX_RETRIES
        )
    # Small files are read as one block, which would keep one encoder busy and the others idle.
    latents = in_processes(
        pairs.repartition(target_num_rows_per_block=2 * config.batch_size),
        "encode",
        partial(make_encoder, config.kept_encoders, config),
        shared,
        config.workers,
        batch_size=config.batch_size,
    )
    if todo is None:
        return latents
    return latents.map_batches(
        KeepPlanned(todo, "latent_id", "error").__call__, batch_format="pyarrow", num_cpus=1, max_retries=MAX_RETRIES
    )
