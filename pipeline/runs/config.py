"""What every job that keeps a run can be told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from pydantic import (
    Field,
)
from upath import UPath

from pipeline.base.config import Config
from pipeline.base.places import Place


class RunConfig(Config):
    """What every job needs: a name and a place."""

    run: str = Field(min_length=1)
    """Name of the run; its folder is <runs>/<run>, and the same name goes on with it."""
    runs: Place = "runs"
    """Folder of all runs: a path that every node sees, or a URL ("s3://bucket/runs")."""
    seed: int = Field(0, ge=0)
    """Every random number of the run follows from it."""
    experiment: str = "jodiffusion"
    """MLflow experiment."""
    tracking_uri: str = ""
    """MLflow server or database; empty: MLFLOW_TRACKING_URI, else a database in the folder of runs, or in the current
    one where runs are on a store."""

    @property
    def folder(self) -> Path:
        """Folder of this run, absolute: workers run in folders of their own. A `UPath` where it is on a store."""
        return cast(Path, UPath(self.runs) / self.run)

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow's numbers go."""
        database = os.path.abspath("mlflow.db") if "://" in self.runs else f"{self.runs}/mlflow.db"
        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{database}"
