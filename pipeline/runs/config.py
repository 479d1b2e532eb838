"""What every job that keeps a run can be told."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from typing import Any, cast

from pydantic import Field, field_validator
from upath import UPath

from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.places import Place
from pipeline.base.strict_yaml import load_yaml
from pipeline.storage.files import read_bytes

CONFIG = "config.yaml"
"""File in a run's folder that it was begun with."""


def checked_name(name: str) -> str:
    """A name of a run, or a part of one: it becomes a path, a part of a URL and a text in MLflow's queries.

    Raises:
        ValueError: says what must not be in it.
    """
    if wrong := re.findall(r"""[?#*"'\\]|::|://""", name):
        raise ValueError(f"a name must not hold {' '.join(wrong)}")
    if _has_controls(name):
        raise ValueError("a name must not hold line breaks or other control characters")
    if name != name.strip() or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError("a name must not begin or end with a space or slash, nor have parts that are empty, . or ..")
    return name


def _has_controls(text: str) -> bool:
    return any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text)


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

    @field_validator("run")
    @classmethod
    def _named(cls, name: str) -> str:
        return checked_name(name)

    @field_validator("runs", mode="before")
    @classmethod
    def _placed(cls, place: str) -> str:
        # In the addresses of databases and stores these end a path, begin another one, or stand for other signs.
        if wrong := re.findall(r"[?#]|::|%[0-9A-Fa-f]{2}", place):
            raise ValueError(f"a folder of runs must not hold {' '.join(wrong)}; rename it")
        if _has_controls(place) or {"'", '"'} <= set(place):
            raise ValueError(
                "a folder of runs must hold neither control characters nor both kinds of quotes; rename it"
            )
        return place

    @property
    def folder(self) -> Path:
        """Folder of this run, absolute: workers run in folders of their own. A `UPath` where it is on a store."""
        return cast(Path, UPath(self.runs) / self.run)

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow's numbers go."""
        database = os.path.abspath("mlflow.db") if "://" in self.runs else f"{self.runs}/mlflow.db"
        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{database}"


def saved_config(folder: str | Path) -> dict[str, Any]:
    """What a run was begun with, by its own key and with `job`; nothing where there is no run.

    Raises:
        ConfigError: it is empty or damaged.
    """
    path = f"{folder}/{CONFIG}"
    try:
        values = load_yaml(read_bytes(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ConfigError(f"{path}: damaged ({error}); restore it, or take another --run name") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no config any more; restore it, or take another --run name")
    return values
