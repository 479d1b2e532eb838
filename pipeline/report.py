"""Report: one self-contained HTML page on what a run made, for a person to look at."""

from __future__ import annotations

import base64
import io
import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from pydantic import BaseModel, Field

from models.labels import LabelSpace
from pipeline import chart
from pipeline.base.config import absolute
from pipeline.base.errors import DataError, JoDiffusionError
from pipeline.base.log import log
from pipeline.evaluation import mean_and_spread
from pipeline.pictures.codec import decode_image, decode_mask
from pipeline.pictures.masks import check_mask
from pipeline.runs import history
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.storage.publish import publish
from pipeline.tables.label_space import load_labels
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import read_shards
from pipeline.tables.shards import MADE, list_shards, map_shards, open_shard

TEMPLATE = "report.html.j2"
SAFE_TO_CHANGE = frozenset({"real", "proof", "num_shown", "trainings"})
PACKAGES = ("torch", "diffusers", "transformers", "ray", "pyarrow", "numpy", "mlflow")
COLUMNS = ["pair_id", "prompt", "image", "mask"]
MAX_SHOWN_PX = 384  # three times the width of a picture on the page: sharp on dense screens, and the file stays small
MAX_CRISP_PX = 192  # pictures below it are scaled up on the page; PNG and hard pixels, because smoothing would lie

T = TypeVar("T")


class ReportConfig(RunConfig):
    """Writes one page, `report.html`, on what a run made."""

    pairs: str
    """Folder of a generate run."""
    real: str = ""
    """Folder of an ingest run to compare class shares with; empty leaves the comparison out."""
    proof: str = ""
    """Folder of a train_segmenter run, which holds `proof.json`; empty leaves the proof out."""
    trainings: tuple[str, ...] = ()
    """Folders of training runs whose losses are drawn; those of the bundle's own are where it holds them."""
    num_shown: int = Field(48, ge=1)
    """Pairs to show, taken evenly from all, in order of their ids."""


class TrainedSet(BaseModel):
    """One row of the proof: a training set, and what its segmenters reach, per seed."""

    name: str
    pairs: int
    steps: int
    miou: list[float] = Field(min_length=1)
    iou: dict[str, list[float]]


class HeldOut(BaseModel):
    """The held-out pairs that segmenters are tested on."""

    folder: str
    pairs: int


class Agreement(BaseModel):
    """How well masks agree with what a segmenter, trained on the set `judge`, sees in the images of `on`."""

    judge: str
    on: str
    miou: float
    pixel_accuracy: float


class Proof(BaseModel):
    """What the page reads of `proof.json`; see pipeline/proof.py."""

    test: HeldOut
    seeds: list[int]
    classes: list[str]
    sets: list[TrainedSet] = Field(min_length=1)
    agreement: Agreement | None = None
    prompt_match: dict[str, float] = {}


class Throughput(BaseModel):
    """`throughput.json` of a generate run: its latest start."""

    pairs_per_s: float
    seconds: float
    samplers: int


def report(config: ReportConfig) -> Path:
    """Writes the page, logs it to MLflow and returns its path.

    Raises:
        DataError, ShardError: an input is missing or broken; the folder, file or row is named.
    """
    with Run.open(config, "report", SAFE_TO_CHANGE) as run:
        page = render(config)
        path = run.folder / "report.html"
        publish(str(path), lambda file: file.write(page.encode()))
        run.tracker.artifact(path)
        log.info("report: %s", path)
        return path


def render(config: ReportConfig) -> str:
    """The page as HTML text; needs no run and no MLflow.

    Raises:
        DataError, ShardError: as `report`.
    """
    folder = Path(absolute(config.pairs))
    shown = _choose(str(folder), config.num_shown)
    labels, manifest = load_labels(str(folder)), Manifest.scan(str(folder))
    sources = {"synthetic": manifest}
    if config.real:
        real = Path(absolute(config.real))
        read_shards([str(real)], ["pair_id"])  # a folder without shards is a mistake, not an empty data set
        if load_labels(str(real)).classes != labels.classes:
            raise DataError(f"{real} and {folder} have different classes, so that their shares cannot be compared")
        sources = {"real": Manifest.scan(str(real)), **sources}
    proof = None
    if config.proof:
        proof = _read(Path(absolute(config.proof)) / "proof.json", Proof.model_validate_json, "jobs.train_segmenter")
    made_with = _read(folder / "config.yaml", yaml.safe_load, "jobs.generate") or {}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # always: Jinja's own choice goes by the file name, and prompts are text from strangers
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        config=config,
        folder=str(folder),
        labels=labels,
        manifest=manifest,
        pairs=[_picture_row(row, labels, f"{folder}: pair {row['pair_id']}") for row in shown.to_pylist()],
        sources=[(name, _remainders(one, labels)) for name, one in sources.items()],
        panels=_shares(list(sources.values()), labels),
        proof=proof,
        proof_rows=_proof_rows(proof) if proof else [],
        throughput=_read(folder / "throughput.json", Throughput.model_validate_json, "jobs.generate"),
        samplers=[_pretty(settings) for settings in manifest.samplers],
        made_with=made_with,
        charts=_charts(config, str(made_with.get("bundle") or "")),
        size=(chart.WIDTH, chart.HEIGHT),
        plot=(chart.LEFT, chart.WIDTH - chart.RIGHT, chart.TOP, chart.HEIGHT - chart.BOTTOM),
        versions=_versions(),
        made_at=datetime.now(UTC),
    )


def _charts(config: ReportConfig, bundle: str) -> list[chart.Chart]:
    """The losses of the trainings that are told, and of the one that made the bundle.

    Raises:
        DataError: no history where one is told.
    """
    charts = []
    for folder in map(absolute, config.trainings):
        points = history.read(folder)
        if not points:
            raise DataError(f"{folder}: no {history.FILE}, which trainings write; mend the key `trainings`")
        charts.append(chart.losses_chart(Path(folder).name, points))
    if bundle:
        beside = absolute(bundle).rstrip("/")
        run = beside.removesuffix("/weights")  # a run's weights serve as a bundle; its history lies above them
        own = [beside, run]
        if set(own) & set(map(absolute, config.trainings)):
            own = []  # it is there already
        with suppress(JoDiffusionError):  # nobody has asked for it, and pairs outlive the bundle that made them
            points = next((points for one in own if (points := history.read(one))), [])
            charts.append(chart.losses_chart(f"bundle {Path(run).name}", points))
    return [one for one in charts if one]


def _choose(folder: str, num_shown: int) -> pa.Table:
    """Rows of `num_shown` pairs, evenly from all by id; of the pictures only those row groups that hold them are read.

    Raises:
        ShardError: no shards, or a broken one.
    """
    ids = pc.unique(read_shards([folder], ["pair_id"])["pair_id"]).sort()
    places = np.linspace(0, len(ids) - 1, min(num_shown, len(ids))).round().astype(np.int64)
    chosen = ids.take(pa.array(places))

    def read(path: str) -> list[pa.Table]:
        found = []
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                here = pc.is_in(file.read_row_group(group, ["pair_id"])["pair_id"], chosen)
                if pc.any(here).as_py():
                    found.append(file.read_row_group(group, COLUMNS).select(COLUMNS).filter(here))
        return found

    rows = pa.concat_tables(table for tables in map_shards(read, list_shards(folder, MADE)) for table in tables)
    return rows.take(pc.index_in(chosen, rows["pair_id"].combine_chunks()))


def _picture_row(row: dict[str, Any], labels: LabelSpace, where: str) -> dict[str, Any]:
    """What the template shows of one pair.

    Raises:
        DataError: a picture that cannot be decoded, sizes that differ, or ids that are no classes.
    """
    image = decode_image((row["image"] or {}).get("bytes") or b"", f"{where}, image")
    mask = decode_mask((row["mask"] or {}).get("bytes") or b"", f"{where}, mask")
    if image.shape[:2] != mask.shape:
        raise DataError(f"{where}: the image is {image.shape[:2]}, but the mask {mask.shape} (height, width)")
    check_mask(mask, labels, f"{where}, mask")
    colours = labels.colours(mask)
    # The background stays as it is: half black over it would only hide what the mask may have missed.
    overlay = np.where((mask > 0)[..., None], (image.astype(np.uint16) + colours) // 2, image).astype(np.uint8)
    present = [int(class_id) for class_id in np.unique(mask) if 0 < class_id <= labels.num_classes]
    return {
        "id": row["pair_id"],
        "prompt": row["prompt"] or "",
        "crisp": max(mask.shape) <= MAX_CRISP_PX,
        "height": mask.shape[0],
        "width": mask.shape[1],
        "pictures": [
            ("image", _data_uri(image)),
            ("mask", _data_uri(colours, exact=True)),
            ("overlay", _data_uri(overlay)),
        ],
        "chips": [(labels.classes[class_id], labels.palette[class_id]) for class_id in present],
    }


def _data_uri(pixels: np.ndarray, exact: bool = False) -> str:
    """(H, W, 3) uint8 as a data URI; large ones are scaled down, and become JPEG unless colours must stay `exact`."""
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    exact = exact or max(picture.size) <= MAX_CRISP_PX
    picture.thumbnail((MAX_SHOWN_PX, MAX_SHOWN_PX), Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS)
    if exact:
        picture.save(buffer, "png")
    else:
        picture.save(buffer, "jpeg", quality=88)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shares(manifests: Sequence[Manifest], labels: LabelSpace) -> list[dict[str, Any]]:
    """Two panels of bars; a row has one (share, width in % of the longest bar) for each manifest."""
    ids = range(1, labels.num_classes + 1)
    images, pixels = [], []
    for manifest in manifests:
        # Class counts are over rows, which outnumber pairs where a key is there twice.
        num_rows = sum(shard.rows for shard in manifest.shards)
        foreground = sum(manifest.classes[i].pixels for i in ids if i in manifest.classes)
        found = [manifest.classes.get(i) for i in ids]
        images.append([share.images / num_rows if share else 0.0 for share in found])
        pixels.append([share.pixels / foreground if share else 0.0 for share in found])
    panels = []
    for title, columns in (("Images that show it", images), ("Share of foreground pixels", pixels)):
        longest = max(max(column) for column in columns) or 1.0
        bars = [[(share, 100 * share / longest) for share in shares] for shares in zip(*columns, strict=True)]
        panels.append({"title": title, "rows": list(zip(labels.classes[1:], labels.palette[1:], bars, strict=True))})
    return panels


def _remainders(manifest: Manifest, labels: LabelSpace) -> dict[str, float]:
    """Shares of all pixels that are background, and that are of no known class."""
    total = sum(share.pixels for share in manifest.classes.values()) or 1
    found = {name: manifest.classes.get(i) for name, i in (("background", 0), ("unknown", labels.ignore_index))}
    return {name: share.pixels / total if share else 0.0 for name, share in found.items()}


def _proof_rows(proof: Proof) -> list[dict[str, Any]]:
    """Mean and spread of each set, its ratio to the first, and mean IoU per class (None where no seed has one)."""
    first = mean_and_spread(proof.sets[0].miou)[0]
    rows = []
    for one in proof.sets:
        mean, spread = mean_and_spread(one.miou)
        known = [[value for value in one.iou.get(name, []) if np.isfinite(value)] for name in proof.classes]
        ious = [mean_and_spread(values)[0] if values else None for values in known]
        ratio = mean / first if first else None
        rows.append({"set": one, "mean": mean, "spread": spread, "ratio": ratio, "ious": ious})
    return rows


def _read(path: Path, parse: Callable[[str], T], job: str) -> T | None:
    """What `parse` makes of a file, or None where it is not there yet.

    Raises:
        DataError: its folder is not there, or the file is not what `job` writes.
    """
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder; {job} makes one")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not what {job} writes ({error}); run {job} again") from error


def _versions() -> list[tuple[str, str]]:
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # training and reports also work where Ray is not installed
            found.append((name, version(name)))
    return found


def _pretty(settings: str) -> str:
    return json.dumps(json.loads(settings), indent=2, ensure_ascii=False)
