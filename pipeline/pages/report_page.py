"""The report page: one self-contained HTML file on what a run made."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel

from models.labels import LabelSpace
from pipeline.base.errors import DataError, JoDiffusionError
from pipeline.base.places import absolute, as_given
from pipeline.evaluation.results import FILE, Proof
from pipeline.pages import chart
from pipeline.pages.intervals import Intervals, intervals
from pipeline.pages.proof_table import Row, charts_of, rows_of
from pipeline.pages.scored import scored
from pipeline.pages.shown import evenly, picture_row
from pipeline.runs import history
from pipeline.tables.label_space import load_labels
from pipeline.tables.manifest import Manifest
from pipeline.tables.rows import read_shards
from pipeline.tables.selection import require_run

TEMPLATE = "report.html.j2"
PACKAGES = ("torch", "diffusers", "transformers", "ray", "pyarrow", "numpy", "mlflow")
T = TypeVar("T")
WORDS = {
    "real": ("real pairs", "Real pictures and their masks", "Masks that people drew, where there are any."),
    "labelled": (
        "labels of a teacher",
        "Pictures that a teacher labelled",
        "The pictures are real; the masks are what a trained segmenter sees in them.",
    ),
    "synthetic": (
        "generated pairs",
        "Pictures and masks made from text",
        "Image and mask of a pair come out of one denoising process, guided by the prompt.",
    ),
}
"""Origin of the pairs -> what they are called, the heading, and where they come from."""


class Throughput(BaseModel):
    """`throughput.json` of a generate run: its latest start."""

    pairs_per_s: float
    seconds: float
    samplers: int


class Proved(NamedTuple):
    """A proof with what its section shows of it."""

    proof: Proof
    rows: list[Row]
    intervals: Intervals | None
    charts: list[chart.Chart]

    @classmethod
    def of(cls, proof: Proof) -> Proved:
        return cls(proof, rows_of(proof), intervals(proof), charts_of(proof))


def render(
    title: str,
    pairs: str,
    real: str = "",
    proof: str = "",
    trainings: Sequence[str] = (),
    *,
    scores: str = "",
    num_shown: int = 48,
) -> str:
    """The page as HTML text; needs no run and no MLflow.

    Args:
        title: of the page.
        pairs: folder of a generate run.
        real: folder of an ingest run to compare class shares with, or "".
        proof: folder of an evaluate run, or "".
        trainings: folders of training runs whose losses are drawn.
        scores: folder of a run of scores of these pairs, or "".
        num_shown: pairs to show, taken evenly from all.

    Raises:
        DataError, ShardError: an input is missing or broken; the folder, file or row is named.
    """
    for one in filter(None, (pairs, real)):
        require_run(one)
    folder = Path(pairs)
    shown = evenly(str(folder), num_shown)
    labels, manifest = load_labels(str(folder)), Manifest.scan(str(folder))
    sources = {"synthetic": manifest}
    if real:
        compared = real
        read_shards([compared], ["pair_id"])  # a folder without shards is a mistake, not an empty data set
        if load_labels(compared).classes != labels.classes:
            raise DataError(f"{compared} and {folder} have different classes, so that their shares cannot be compared")
        sources = {"real": Manifest.scan(compared), **sources}
    proved = _read(Path(proof) / FILE, Proof.model_validate_json, "jobs.evaluate") if proof else None
    made_with = _read(folder / "config.yaml", yaml.safe_load, "jobs.generate") or {}
    origin = max(shown["origin"].to_pylist(), key=list(WORDS).index)
    kind, heading, lede = WORDS[origin]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # always: Jinja's own choice goes by the file name, and prompts are text from strangers
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        title=title,
        kind=kind,
        heading=heading,
        lede=lede,
        given=as_given(pairs),
        real=as_given(real),
        folder=str(folder),
        labels=labels,
        manifest=manifest,
        pairs=[picture_row(row, labels, f"{folder}: pair {row['pair_id']}") for row in shown.to_pylist()],
        sources=[(name, _remainders(one, labels)) for name, one in sources.items()],
        called={"real": "real", "synthetic": "these" if origin == "real" else origin},
        panels=_shares(list(sources.values()), labels),
        proof=Proved.of(proved) if proved else None,
        bundle=as_given(str(made_with.get("bundle") or "")),
        of_bundle=_of_bundle(str(made_with.get("bundle") or "")),
        throughput=_read(folder / "throughput.json", Throughput.model_validate_json, "jobs.generate"),
        samplers=[_pretty(settings) for settings in manifest.samplers],
        made_with=made_with,
        scored=scored(scores, str(folder), labels) if scores else None,
        charts=_charts(trainings, str(made_with.get("bundle") or "")),
        size=(chart.WIDTH, chart.HEIGHT),
        plot=(chart.LEFT, chart.WIDTH - chart.RIGHT, chart.TOP, chart.HEIGHT - chart.BOTTOM),
        versions=_versions(),
        made_at=datetime.now(UTC),
    )


def _of_bundle(bundle: str) -> Proved | None:
    """The proof that lies in the bundle that made the pairs; None where it has none, or is not at hand any more."""
    found = None
    with suppress(DataError):  # nobody has asked for it
        found = _read(Path(absolute(bundle)) / FILE, Proof.model_validate_json, "jobs.evaluate") if bundle else None
    return Proved.of(found) if found else None


def _charts(trainings: Sequence[str], bundle: str) -> list[chart.Chart]:
    """The losses of the trainings that are told, and of the one that made the bundle.

    Raises:
        DataError: no history where one is told.
    """
    charts = []
    for folder in trainings:
        points = history.read(folder)
        if not points:
            raise DataError(f"{folder}: no {history.FILE}, which trainings write; correct the key `trainings`")
        charts.append(chart.losses_chart(Path(folder).name, points))
    if bundle:
        beside = absolute(bundle).rstrip("/")  # an earlier release saved it as it was given
        run = beside.removesuffix("/weights")  # a run's weights serve as a bundle; its history lies above them
        own = [beside, run]
        if set(own) & set(trainings):
            own = []  # it is there already
        with suppress(JoDiffusionError):  # nobody has asked for it, and pairs outlive the bundle that made them
            points = next((points for one in own if (points := history.read(one))), [])
            charts.append(chart.losses_chart(f"bundle {Path(run).name}", points))
    return [one for one in charts if one]


def _shares(manifests: Sequence[Manifest], labels: LabelSpace) -> list[dict[str, Any]]:
    """Two panels of bars; a row has one (share, width in % of the longest bar) for each manifest."""
    ids = range(1, labels.num_classes + 1)
    images, pixels = [], []
    for manifest in manifests:
        # Class counts are over rows, which outnumber pairs where a key is there twice.
        num_rows = max(1, sum(shard.rows for shard in manifest.shards) - manifest.num_unlabelled)
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
