"""Caption: pairs of real pictures -> the same pairs with captions, by a captioning network."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import ray.data
from pydantic import Field

from models.captioner import Captioner, check_model
from models.precision import Precision
from pipeline.base.config import Workers
from pipeline.base.log import log
from pipeline.base.places import Folder, NameOrPlace
from pipeline.cluster.drive import Left, drive
from pipeline.cluster.finish import finish
from pipeline.cluster.processes import Stage, in_processes
from pipeline.cluster.progress import Shared
from pipeline.cluster.tasks import MAX_RETRIES
from pipeline.reader.ray_data import read_pairs
from pipeline.runs.config import RunConfig, saved_config
from pipeline.runs.run import Run
from pipeline.stages.caption import CaptionPairs, Captions, has_captions
from pipeline.stages.caption_rules import CaptionByRule
from pipeline.stages.keep import KeepPlanned
from pipeline.storage.publish import write_bytes
from pipeline.tables.label_space import LABELS, common_labels
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import has_classes, read_texts, remaining
from pipeline.tables.shards import remove_drafts

RULES = "rules"
SAFE_TO_CHANGE = frozenset({"revision", "batch_size", "rows_per_shard", "retry_errors", "log_every_s"})


class CaptionConfig(RunConfig):
    """Captions the pictures of pairs, so that they can be trained on and generated from."""

    pairs: tuple[Folder, ...] = Field(min_length=1)
    """Folders of ingest runs, paths or URLs; several count as one set."""
    model: NameOrPlace = "Salesforce/blip2-opt-2.7b"
    """BLIP-2, BLIP, GIT or a vision encoder-decoder: a name on the Hugging Face hub or a folder, with safetensors.
    "rules" goes without a network: of labelled pictures it says the classes in the mask with size, place and colour, of
    others the classes that their captions name, with what the picture tells."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty: the newest, whose commit the run keeps to."""
    num_captions: int = Field(1, ge=1)
    """Captions of each picture: the first is the likeliest word by word, the others are sampled; equal ones count
    once."""
    max_new_tokens: int = Field(30, ge=1)
    """A caption is cut off there."""
    instruction: str = ""
    """Text that the model continues, such as "a photo of"; it is no part of the caption. BLIP-2 and BLIP only."""
    batch_size: int = Field(16, ge=1)
    """Pictures that the model takes at once."""
    precision: Precision = "bfloat16"
    """Of the model; "float32" as in the paper's code, in twice the memory."""
    keep: bool = True
    """Pairs that have captions already keep them, and the model does not see them; False captions all anew."""
    rows_per_shard: int = Field(512, ge=1)
    """Pairs per Parquet file."""
    retry_errors: bool = False
    """Try again what failed in an earlier start of this run."""
    workers: Workers = Workers()
    """Captioning processes; with GPUs, one each. Each loads the model once."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines, and between points in MLflow."""

    def captioner(self, commit: str) -> Captions:
        """The model, loaded in this process, as it is to be used."""
        device = "cuda" if self.workers.gpus else "cpu"
        return partial(
            Captioner.load(self.model, commit or self.revision, self.precision, device),
            num_captions=self.num_captions,
            max_new_tokens=self.max_new_tokens,
            instruction=self.instruction,
        )


def caption(config: CaptionConfig) -> Manifest:
    """Writes what `config.run` does not hold yet; returns what it holds then.

    Raises:
        ConfigError, DataError, ShardError, WeightsError: each says what is wrong, where, and how to correct it.
        Stopped: SIGINT; what had begun is written.
    """
    sources = list(config.pairs)
    labels = common_labels(sources)
    plan = read_texts(sources)
    num_kept = int(has_captions(plan).sum()) if config.keep else 0
    commit = begun_with(config)
    if (
        num_kept < plan.num_rows and config.model != RULES
    ):  # before the run is begun, and before any process loads gigabytes
        commit = check_model(config.model, config.revision or commit, config.instruction)
    with Run.open(config, "caption", SAFE_TO_CHANGE, {"model_commit": commit}, on_store=True) as run:
        folder = str(run.folder)
        remove_drafts(folder)
        write_bytes(f"{folder}/{LABELS}", labels.to_json().encode())
        todo = remaining(plan, folder, config.retry_errors)
        if config.model == RULES:
            tell_of_bare(todo)
        who = "rules" if config.model == RULES else f"{config.model}, {config.precision}, {config.batch_size} at once"
        log.info(
            "caption: %s of %s pairs to write; %s of all have captions and keep them, the others get %d each from %s, "
            "by %d processes",
            f"{todo.num_rows:,}", f"{plan.num_rows:,}", f"{num_kept:,}", config.num_captions, who, config.workers.num,
        )  # fmt: skip

        def left(todo: pa.Table) -> Left:
            keys = todo.select(["pair_id"])
            return Left(todo.num_rows, lambda shared: graph(read_pairs(sources), keys, config, commit, shared))

        drive(
            run,
            "caption",
            left(todo),
            lambda: left(remaining(plan, folder)),
            planned=plan.num_rows,
            stages={"caption": config.workers.num},
            workers=config.workers,
            rows_per_shard=config.rows_per_shard,
            every_s=config.log_every_s,
        )
        return finish(run)


def tell_of_bare(todo: pa.Table) -> None:
    """Warns of pictures of which rules have nothing to say."""
    if bare := int((~has_classes(todo) & ~has_captions(todo)).sum()):
        log.warning(
            "caption: %s of %s pictures have neither a mask nor a caption: rules see their colour alone and name no "
            "class; give ingest sentences or class words (--captions), or another `model`",
            f"{bare:,}", f"{todo.num_rows:,}",
        )  # fmt: skip


def begun_with(config: CaptionConfig) -> str:
    """The commit of the model that the run began with, "" for a new run: a hub that moves on does not change it."""
    return str(saved_config(config.folder).get("model_commit") or "")


def make_captioner(config: CaptionConfig, commit: str) -> Stage:
    """The stage of a captioning process."""
    if config.model == RULES:
        return CaptionByRule(common_labels(list(config.pairs)), keep=config.keep)
    load = partial(config.captioner, commit)
    return CaptionPairs(load, batch_size=config.batch_size, run_seed=config.seed, keep=config.keep)


def graph(
    pairs: ray.data.Dataset, todo: pa.Table, config: CaptionConfig, commit: str, shared: Shared
) -> ray.data.Dataset:
    """Pairs -> those in `todo` with captions, and rows with an `error`."""
    wanted = pairs.map_batches(
        KeepPlanned(todo, "pair_id").__call__, batch_format="pyarrow", num_cpus=0.5, max_retries=MAX_RETRIES
    )
    # Small files are read as one block, which would keep one process busy and the others idle.
    return in_processes(
        wanted.repartition(target_num_rows_per_block=config.batch_size),
        "caption",
        partial(make_captioner, config, commit),
        shared,
        config.workers,
        batch_size=config.batch_size,
        batch_format="pyarrow",
    )
