"""Report: one self-contained HTML page on what a run made, for a person to look at."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pipeline.base.log import log
from pipeline.base.places import Folder
from pipeline.pages.report_page import render
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.storage.publish import publish

SAFE_TO_CHANGE = frozenset({"real", "proof", "num_shown", "trainings", "scores"})


class ReportConfig(RunConfig):
    """Writes one page, `report.html`, on what a run made."""

    pairs: Folder
    """Folder of a generate run."""
    real: Folder = ""
    """Folder of an ingest run to compare class shares with; empty leaves the comparison out."""
    proof: Folder = ""
    """Folder of an evaluate run, which holds `proof.json`; empty leaves the proof out."""
    trainings: tuple[Folder, ...] = ()
    """Folders of training runs whose losses are drawn; those of the bundle's own are where it holds them."""
    scores: Folder = ""
    """Folder of a run of jobs.score of these pairs: what they are worth, and copies of real pairs beside their
    originals; empty leaves that out."""
    num_shown: int = Field(48, ge=1)
    """Pairs to show, taken evenly from all, in order of their ids."""


def report(config: ReportConfig) -> Path:
    """Writes the page, logs it to MLflow and returns its path.

    Raises:
        DataError, ShardError: an input is missing or broken; the folder, file or row is named.
    """
    with Run.open(config, "report", SAFE_TO_CHANGE) as run:
        page = render(
            config.run,
            config.pairs,
            config.real,
            config.proof,
            config.trainings,
            scores=config.scores,
            num_shown=config.num_shown,
        )
        path = run.folder / "report.html"
        publish(str(path), lambda file: file.write(page.encode()))
        run.tracker.artifact(path)
        log.info("report: %s", path)
        return path
