"""Multiply: further pictures for masks that are there, by the joint network."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from pydantic import Field, field_validator

from models.labels import LabelSpace
from models.reverse import SamplerSettings
from models.weights import ENCODERS, JOINT, digest, read_facts
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import Folder, SentFolder, as_given
from pipeline.cluster.drive import Left, drive
from pipeline.cluster.finish import finish
from pipeline.cluster.processes import in_processes, in_task_pool
from pipeline.cluster.progress import Shared
from pipeline.pictures.codec import ImageFormat
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.stages.mask_views import MaskViews, seen_masks
from pipeline.stages.pack import pack_pairs
from pipeline.stages.sample import Preset, SamplePictures, check_files, chosen_settings
from pipeline.storage.copies import local_copy
from pipeline.storage.publish import write_bytes
from pipeline.tables.conform import object_column
from pipeline.tables.ids import canonical_json, pair_id, pair_seed
from pipeline.tables.label_space import LABELS, is_same, load_labels, meaning
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import read_texts, remaining
from pipeline.tables.schema import Batch, captions_of
from pipeline.tables.shards import remove_drafts
from pipeline.training.order import bounds, ids_of

SAFE_TO_CHANGE = frozenset(
    {
        "bundle",  # its digest must not change
        "per_mask", "rows_per_shard", "look_on", "retry_errors", "log_every_s",
    }
)  # fmt: skip


class MultiplyConfig(RunConfig):
    """Makes further pictures for masks that people have."""

    bundle: SentFolder
    """Folder of the weights, a path or a URL."""
    pairs: Folder
    """Run, or a selection, whose masks get pictures."""
    slice: str = ":"
    """Which of its pairs, as START:STOP in the order of their ids."""
    per_mask: int = Field(1, ge=1)
    """Pictures for each mask, each with noise and a view of its own. Asking for more later makes the difference."""
    views: MaskViews = MaskViews()
    """How masks are seen."""
    sampler: SamplerSettings = SamplerSettings()
    """The reverse process."""
    preset: Preset = "own"
    """As of jobs.generate: replaces steps, solver and guided steps of `sampler`."""
    image_format: ImageFormat = "webp"
    """"webp" and "png" are lossless, "jpeg" is quality 95 in 4:4:4."""
    rows_per_shard: int = Field(1000, ge=1)
    """Pairs per Parquet file, give or take half."""
    workers: Workers = Workers()
    """Sampler processes; with GPUs, one each."""
    look_on: Workers = Workers(num=2)
    """Tasks that read masks and pack pairs, at most `num` of each at once."""
    retry_errors: bool = False
    """Try again what failed in an earlier start of this run."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines, and between points in MLflow."""

    @field_validator("slice")
    @classmethod
    def _holds_something(cls, part: str) -> str:
        bounds(part or ":")
        return part or ":"

    def check_inputs(self) -> None:
        super().check_inputs()
        if "://" not in self.bundle:
            read_facts(self.bundle)

    def resolved(self) -> MultiplyConfig:
        """This config with the preset's values and the bundle's guidance in `sampler`."""
        sampler = chosen_settings(self.sampler, self.preset, local_copy(self.bundle))
        return self.model_copy(update={"sampler": sampler, "preset": "own"})

    def provenance(self) -> str:
        """Canonical JSON of all that decides a picture besides mask, prompt, seed and bundle; the column `sampler`."""
        return canonical_json({"sampler": self.sampler.recorded(), "multiply": self.views.dump()})


def multiply(config: MultiplyConfig) -> Manifest:
    """Makes the pairs that `config.run` does not hold yet; returns what it holds then.

    Raises:
        ConfigError, DataError, ShardError, WeightsError: each says what is wrong, where, and how to correct it.
        ClusterError: processes or machines died too often.
        Stopped: SIGINT or SIGTERM; what had begun is written.
    """
    bundle = local_copy(config.bundle)
    check_files(bundle)
    if read_facts(bundle).student:
        raise ConfigError(
            f"bundle: {as_given(config.bundle)} was distilled and makes whole pairs alone; give its teacher's"
        )
    labels = load_labels(str(bundle))
    if not is_same(own := load_labels(config.pairs), labels):
        raise ConfigError(
            f"pairs: numbers in masks of {as_given(config.pairs)} mean other things than to the bundle "
            f"{as_given(config.bundle)}; give pairs of the same label space. Pairs: {meaning(own)} Bundle: "
            f"{meaning(labels)}"
        )
    config, bundle_digest = config.resolved(), digest(bundle, ENCODERS + JOINT)
    size_px = read_facts(bundle).image_size_px
    plan = planned(config, bundle_digest)  # before the run is begun
    with Run.open(config, "multiply", SAFE_TO_CHANGE, {"bundle_digest": bundle_digest}, on_store=True) as run:
        folder = str(run.folder)
        remove_drafts(folder)
        write_bytes(f"{folder}/{LABELS}", labels.to_json().encode())

        def left(retry: bool = False) -> Left:
            todo = remaining(plan, folder, retry)
            return Left(todo.num_rows, lambda shared: graph(todo, config, labels, size_px, bundle_digest, shared))

        found = left(config.retry_errors)
        log.info("multiply: %s pictures planned, %s to make, %s", f"{plan.num_rows:,}", f"{found.num:,}", config.views)
        drive(
            run,
            "multiply",
            found,
            left,
            planned=plan.num_rows,
            stages={"look": config.look_on.num, "sample": config.workers.num, "pack": config.look_on.num},
            workers=config.workers,
            rows_per_shard=config.rows_per_shard,
            every_s=config.log_every_s,
        )
        return finish(run)


def planned(config: MultiplyConfig, bundle_digest: str) -> pa.Table:
    """What the run will hold: `pair_id`, `source_id` (the pair whose mask it is), `prompt` and `seed`. Captions of a
    mask are taken in turn.

    Raises:
        ConfigError: no masks, or a caption that cannot be mirrored.
    """
    texts = read_texts([config.pairs])
    texts = texts.filter(
        pc.is_in(texts["pair_id"], pa.array(ids_of(config.pairs, config.slice, "labelled"), pa.string()))
    )
    if not texts.num_rows:
        raise ConfigError(f"pairs: {as_given(config.pairs)} holds no masks in {config.slice}; give labelled pairs")
    made_by, rows = config.provenance(), []
    for pair in texts.to_pylist():
        captions = captions_of(pair) or [""]
        for number in range(config.per_mask):
            seed = pair_seed(config.seed, pair["pair_id"], number)
            try:
                prompt = config.views.prompt(captions[number % len(captions)], seed)
            except ValueError as error:
                raise ConfigError(
                    f"views.mirrored_words: {error}, in a caption of pair {pair['pair_id']}; name the word there with "
                    "its opposite (with itself where it says no side), or say --views.flip False"
                ) from error
            rows.append((pair_id(prompt, seed, bundle_digest, made_by), pair["pair_id"], prompt, seed))
    names = ("pair_id", "source_id", "prompt", "seed")
    return pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})


def graph(
    todo: pa.Table, config: MultiplyConfig, labels: LabelSpace, size_px: int, bundle_digest: str, shared: Shared
) -> ray.data.Dataset:
    """The masks that `todo` names -> packed pairs, and rows with an `error`."""
    pictures: dict[str, list[tuple[str, str, int]]] = {}
    for row in todo.to_pylist():
        pictures.setdefault(row["source_id"], []).append((row["pair_id"], row["prompt"], row["seed"]))
    batch_size = config.sampler.batch_size
    rows = read_pairs([config.pairs], ["pair_id", "mask"]).repartition(target_num_rows_per_block=batch_size)
    look = partial(look_at_masks, wanted=ray.put(pictures), views=config.views, size_px=size_px, labels=labels)
    seen = in_task_pool(rows, "look", look, shared, config.look_on, batch_size=batch_size)
    device = "cuda" if config.workers.gpus else "cpu"
    sampled = in_processes(
        seen.repartition(target_num_rows_per_block=batch_size),
        "sample",
        partial(make_sampler, config, device, bundle_digest),
        shared,
        config.workers,
        batch_size=batch_size,
        reason="sampler_died",
    )
    origin = {"origin": "synthetic", "bundle": bundle_digest, "sampler": config.provenance()}
    pack = partial(pack_with, image_format=config.image_format, origin=origin)
    return in_task_pool(sampled, "pack", pack, shared, config.look_on, batch_size=batch_size)


def look_at_masks(batch: Batch, *, wanted: ray.ObjectRef, views: MaskViews, size_px: int, labels: LabelSpace) -> Batch:
    """Stage: `seen_masks`, of the pictures in Ray's object store."""
    return seen_masks(batch, ray.get(wanted), views, size_px, labels)


def make_sampler(config: MultiplyConfig, device: str, bundle_digest: str) -> SamplePictures:
    """The stage of a sampling process; the bundle may lie on a store."""
    return SamplePictures(str(local_copy(config.bundle)), config.sampler, device, bundle_digest)


def pack_with(batch: Batch, *, image_format: ImageFormat, origin: dict[str, str]) -> Batch:
    """Stage: `pack_pairs` with constant columns."""
    constant = {name: object_column([value] * len(batch["pair_id"])) for name, value in origin.items()}
    return {**pack_pairs(batch, image_format=image_format), **constant}
