"""Ingest: a real data set -> PAIR shards, the same table that the generator writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from pydantic import Field

from models.labels import LabelSpace
from pipeline.cluster import require
from pipeline.config import Config, RunConfig, Workers, absolute
from pipeline.datasets.ade20k import ADE20K
from pipeline.datasets.builtin import Builtin
from pipeline.datasets.cityscapes import Cityscapes
from pipeline.datasets.coco import COCO, Crowd, Overlap
from pipeline.datasets.folder import Folder
from pipeline.datasets.hugging_face import HuggingFace
from pipeline.datasets.source import Source
from pipeline.datasets.voc import PascalVOC
from pipeline.errors import ConfigError, DataError, Stopped
from pipeline.finish import finish
from pipeline.manifest import Manifest
from pipeline.progress import Shared, Timed
from pipeline.run import Run, log
from pipeline.schema import Batch, real_pair_id
from pipeline.shards import FAILED, LABELS, list_shards, read_columns, remaining, remove_drafts
from pipeline.sink import MAX_RETRIES, WRITE_ARGS, ShardSink
from pipeline.stages.read import ReadPairs, Void
from pipeline.storage import write_bytes
from pipeline.watch import Watch
from pipeline.work import beside_driver, get, plain_errors

SAFE_TO_CHANGE = frozenset({"root", "sbd", "pairs", "rows_per_shard", "retry_errors", "log_every_s"})
ROWS_PER_BATCH = 64
NUM_TRIED = 16
"""Pairs that are read before all others: a wrong root or palette should be told at once, not in every row."""


class FolderLayout(Config):
    """Where a plain folder has its pictures and masks; a mask is called as its picture is."""

    images: str = "images"
    """Folder of pictures, below `root`."""
    masks: str = "masks"
    """Folder of masks, below `root`."""
    mask_suffix: str = ""
    """What the name of a mask has more than its picture's, before the dot: "_mask"."""


class Columns(Config):
    """Columns of a Hugging Face data set."""

    image: str = "image"
    """Pictures."""
    mask: str = "mask"
    """Pictures of class ids."""
    caption: str = ""
    """Texts or lists of texts; empty: none."""


class IngestConfig(RunConfig):
    """Reads one split of a real data set into PAIR shards."""

    dataset: Literal["builtin", "voc", "coco", "ade20k", "cityscapes", "folder", "huggingface"] = "builtin"
    """"builtin": composited real photographs with exact masks, made on the fly. "coco" takes any set in COCO's form."""
    root: str = ""
    """Folder of the data set, a path or a URL, in the layout that it is published in (docs/data.md); for huggingface a
    folder or a name on the hub."""
    split: str = "train"
    """What the data set calls it: train, val, trainaug, training, train2017, ..."""
    name: str = ""
    """Name of the data set in ids and in the column `dataset`; empty: that of `dataset`, or of the folder."""
    origin: Literal["real", "synthetic"] = "real"
    """What the pairs are: "synthetic" for those of another generator."""
    labels: str = ""
    """Label space of folder, huggingface and coco: voc, coco, ade20k, cityscapes, or a YAML file (docs/weights.md)."""
    pairs: int = Field(0, ge=0)
    """Pairs to read, chosen by their ids; 0: all (of builtin, which has no end, 4,096)."""
    void: Void = "ignore"
    """What pixels of unknown class become: the ignore index, or background as in the paper's code."""
    crowd: Crowd = "ignore"
    """What crowds of COCO become: the ignore index, or their class as in the paper's code ("paint")."""
    overlap: Overlap = "file"
    """Which object of COCO is on top: the later one in the "file", as in the paper's code, or the smaller "area"."""
    sbd: str = ""
    """Folder `dataset` of SBD, whose masks (cls/*.mat) then go before VOC's."""
    captions: str = ""
    """JSON file {name: text or list of texts}; empty: the captions that the data set ships, if any."""
    mask_values: dict[int, int] = Field(default_factory=dict)
    """Folder, huggingface: raw value in the masks -> class id, such as {255: 1}; values that are not named stay."""
    folder_layout: FolderLayout = FolderLayout()
    """Of dataset folder."""
    columns: Columns = Columns()
    """Of dataset huggingface."""
    revision: str = ""
    """Commit, branch or tag of a data set on the hub."""
    size_px: int = Field(64, ge=32)
    """Side of the square pictures of builtin; all others keep their size."""
    rows_per_shard: int = Field(512, ge=1)
    """Pairs per Parquet file."""
    retry_errors: bool = False
    """Read again what failed in an earlier start of this run."""
    workers: Workers = Workers(num=2)
    """Reading processes."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines, and between points in MLflow."""

    @property
    def dataset_name(self) -> str:
        """What ids and the column `dataset` call it."""
        whole = self.dataset not in ("folder", "huggingface")
        return self.name or (self.dataset if whole else os.path.basename(self.root.rstrip("/")))


def ingest(config: IngestConfig) -> Manifest:
    """Writes what `config.run` does not hold yet; returns what it holds then.

    Raises:
        ConfigError, DataError: each says what is wrong, where, and how to mend it. Single pairs that cannot be read are
            rows in errors/ instead.
        Stopped: SIGINT; what had begun is written.
    """
    source = open_source(config)
    with Run.open(config, "ingest", SAFE_TO_CHANGE, on_store=True) as run:
        folder = str(run.folder)
        remove_drafts(folder)
        # Lists of a large data set take gigabytes; a task gives them back.
        todo, facts = beside_driver(find_todo, num_returns=2).remote(source, config, folder)
        num, planned, labels = get(facts)
        write_bytes(f"{folder}/{LABELS}", labels.to_json().encode())
        log.info(
            "ingest: %s of %s pairs of %s, split %s, to read; %d classes, void becomes %s",
            f"{num:,}", f"{planned:,}", config.dataset_name, config.split, labels.num_classes, config.void,
        )  # fmt: skip
        if num:
            require(config.workers)
            stage = ReadPairs(source, labels, config.dataset_name, config.split, config.origin, config.void)
            read(todo, num, planned, stage, config, run)
        manifest = finish(run)
        say_what_is_wrong(manifest, labels, folder)
        return manifest


def read(todo: Any, num: int, planned: int, stage: ReadPairs, config: IngestConfig, run: Run) -> None:
    """Runs the graph on what is left, watched."""
    shared = Shared.start()
    watch = Watch(
        job="ingest",
        run=run,
        shared=shared,
        workers={"read": config.workers.num, "write": 1},
        already=planned - num,
        planned=planned,
        gpus=0,
        gpu_hour_price=0,
        every_s=config.log_every_s,
    )
    work = ray.data.from_arrow_refs([todo]).repartition(target_num_rows_per_block=ROWS_PER_BATCH)
    with watch(), plain_errors():
        graph(work, stage, config.workers, shared).write_datasink(
            ShardSink(str(run.folder), config.rows_per_shard, shared=shared), ray_remote_args=WRITE_ARGS
        )
    if watch.stopped:
        raise Stopped(f"stopped: {finish(run).num_pairs:,} of {planned:,} pairs are in {run.folder}")


def graph(work: ray.data.Dataset, stage: ReadPairs, workers: Workers, shared: Shared) -> ray.data.Dataset:
    """Rows of work -> packed pairs."""
    return work.map_batches(
        Timed,
        fn_constructor_args=("read", stage, shared, True, True),
        batch_size=ROWS_PER_BATCH,
        num_cpus=workers.cpus,
        max_restarts=MAX_RETRIES,
        compute=ray.data.ActorPoolStrategy(size=workers.num),
    )


def find_todo(source: Source, config: IngestConfig, folder: str) -> tuple[pa.Table, tuple[int, int, LabelSpace]]:
    """Entries (with `pair_id`) that the run does not hold; their number, that of all planned ones, and the label space.

    Raises:
        DataError: nothing to read, or none of the first pairs can be read.
    """
    plan = plan_of(source.entries(), config)
    if not plan.num_rows:
        raise DataError(f"{config.root}: no pairs in the split {config.split!r}; check `root` and `split`")
    todo = remaining(plan, folder, config.retry_errors)
    tried = todo.take(np.unique(np.linspace(0, max(todo.num_rows - 1, 0), NUM_TRIED).astype(int))[: todo.num_rows])
    if tried.num_rows:
        columns: Batch = {name: np.array(tried[name].to_pylist(), object) for name in tried.column_names}
        rows = ReadPairs(source, source.labels, "", "", config.origin, config.void)(columns)
        if all(rows["error"]) and todo.num_rows == plan.num_rows:
            raise DataError(
                f"none of {tried.num_rows} pairs that were tried first can be read. {rows['error_detail'][0]}"
            )
    return todo, (todo.num_rows, plan.num_rows, source.labels)


def plan_of(entries: pa.Table, config: IngestConfig) -> pa.Table:
    """The entries that are wanted, with `pair_id`."""
    scenes = f"/{config.seed}/{config.size_px}" if config.dataset == "builtin" else ""
    name = f"{config.dataset_name}/{config.split}{scenes}"
    plan = entries.add_column(0, "pair_id", pa.array([real_pair_id(name, key) for key in entries["key"].to_pylist()]))
    if len(pc.unique(plan["key"])) < plan.num_rows:
        doubled = plan["key"].value_counts().filter(pc.greater(plan["key"].value_counts().field("counts"), 1))
        raise DataError(f"{config.root}: two pairs are called {doubled[0]['values']}; rename one")
    if config.pairs and config.dataset != "builtin":
        plan = plan.sort_by("pair_id").slice(0, config.pairs)  # any number of them is a fair sample
    return plan


def open_source(config: IngestConfig) -> Source:
    """What the config names.

    Raises:
        ConfigError: a key is missing, or set for another data set.
    """
    refuse_keys_of_others(config)
    root, split, captions = _place(config), config.split, config.captions and absolute(config.captions)
    makers: dict[str, Callable[[], Source]] = {
        "builtin": lambda: Builtin(split, config.seed, config.size_px, config.pairs or 4096),
        "voc": lambda: PascalVOC(root, split, config.sbd and absolute(config.sbd), captions),
        "coco": lambda: COCO(
            root, split, config.crowd, config.overlap, captions, label_space(config) if config.labels else None
        ),
        "ade20k": lambda: ADE20K(root, split, captions),
        "cityscapes": lambda: Cityscapes(root, split, captions),
        "folder": lambda: Folder(
            root, label_space(config), **config.folder_layout.dump(), values=config.mask_values, captions=captions
        ),
        "huggingface": lambda: HuggingFace(
            root, split, label_space(config), **config.columns.dump(), values=config.mask_values,
            revision=config.revision,
        ),
    }  # fmt: skip
    return makers[config.dataset]()


KEYS_OF = {
    "sbd": ("voc",),
    "crowd": ("coco",),
    "overlap": ("coco",),
    "labels": ("coco", "folder", "huggingface"),
    "mask_values": ("folder", "huggingface"),
    "folder_layout": ("folder",),
    "columns": ("huggingface",),
    "revision": ("huggingface",),
    "captions": ("voc", "coco", "ade20k", "cityscapes", "folder"),
    "size_px": ("builtin",),
}
"""Keys that some data sets alone know."""


def refuse_keys_of_others(config: IngestConfig) -> None:
    """Raises ConfigError for a key that was set and would be ignored."""
    for key, datasets in KEYS_OF.items():
        if config.dataset not in datasets and getattr(config, key) != IngestConfig.model_fields[key].get_default(
            call_default_factory=True
        ):
            raise ConfigError(f"{key}: only for dataset {', '.join(datasets)}, not {config.dataset}; leave it out")


def label_space(config: IngestConfig) -> LabelSpace:
    """Raises ConfigError where there is none."""
    if not config.labels:
        raise ConfigError(
            f"labels: dataset {config.dataset} needs to know its classes: voc, coco, ade20k, cityscapes, or a YAML "
            "file with `name` and `classes`, background first"
        )
    try:
        return LabelSpace.named(config.labels)
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from error


def say_what_is_wrong(manifest: Manifest, labels: LabelSpace, folder: str) -> None:
    """Shows some rows that failed, and masks that teach nothing."""
    shown = 0
    for path in list_shards(folder, FAILED) if manifest.num_errors else []:
        for detail in read_columns(path, ["detail"])["detail"].to_pylist()[: 5 - shown]:
            log.warning("ingest: left out: %s", detail)
            shown += 1
    if manifest.num_errors > shown:
        log.warning("ingest: and %s more, all in %s/errors", f"{manifest.num_errors - shown:,}", folder)
    if manifest.num_pairs and not set(manifest.classes) - {0, labels.ignore_index}:
        log.warning(
            "ingest: the masks hold nothing but %s; if 255 is a class here, say --mask-values 255 1",
            " and ".join(map(str, manifest.classes)),
        )


def _place(config: IngestConfig) -> str:
    """`root` as every worker finds it: a name on the hub is no path."""
    if config.dataset == "builtin":
        return ""
    if not config.root:
        raise ConfigError(f"root: dataset {config.dataset} needs the folder that it lies in")
    on_hub = config.dataset == "huggingface" and not os.path.exists(config.root)
    return config.root if on_hub else absolute(config.root).rstrip("/")
