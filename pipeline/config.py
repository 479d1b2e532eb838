"""Configuration: frozen pydantic models that refuse unknown keys, read from YAML, overridden on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import tyro
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from upath import UPath

from pipeline.errors import ConfigError

C = TypeVar("C", bound="Config")


_PARSED: ContextVar[str] = ContextVar("parsed", default="")
"""What the command-line parser builds configs from; it would print pydantic's own page for a wrong value."""
NO_CREDENTIALS = "credentials do not belong into a URL; give them in the environment"


def holds_credentials(value: Any) -> bool:
    """Whether a text is a URL with a user, a password or a signature in it."""
    return isinstance(value, str) and bool(re.search(r"://[^/\s]*@|[?&](X-Amz-|X-Goog-|sig=|token=)", value, re.I))


class Config(BaseModel):
    """Base of every configuration. The text under a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(values)
        except ValidationError as error:
            if not (where := _PARSED.get()):
                raise
            raise ConfigError(_explain(error, where)) from error

    @field_validator("*", mode="before")
    @classmethod
    def _without_credentials(cls, value: Any) -> Any:
        # Configs are saved, logged and copied into provenance.
        if any(holds_credentials(one) for one in (value if isinstance(value, tuple | list) else (value,))):
            raise ValueError(NO_CREDENTIALS)
        return value

    def dump(self) -> dict[str, Any]:
        """Plain values, as they are written to YAML and MLflow."""
        return self.model_dump(mode="json")


class Workers(Config):
    """How many processes run a stage or a training, and what each reserves."""

    num: int = Field(1, ge=1)
    """Processes at most."""
    cpus: float = Field(1, ge=0)
    """CPU cores that each reserves."""
    gpus: float = Field(0, ge=0)
    """GPUs that each reserves; a fraction shares one GPU, but not among the workers of a training."""
    threads: int = Field(0, ge=0)
    """Torch threads of each; 0 leaves the choice to torch."""


class RunConfig(Config):
    """What every job needs: a name and a place."""

    run: str = Field(min_length=1)
    """Name of the run; its folder is <runs>/<run>, and the same name goes on with it."""
    runs: str = "runs"
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
        return cast(Path, UPath(absolute(self.runs)) / self.run)

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow's numbers go."""
        database = os.path.abspath("mlflow.db") if "://" in self.runs else f"{absolute(self.runs)}/mlflow.db"
        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{database}"


def absolute(path: str) -> str:
    """A local path as every worker finds it, whatever its working directory; URLs stay as they are."""
    return path if "://" in path else os.path.abspath(path)


def load(config_type: type[C], path: str | Path, overrides: dict[str, Any] | None = None) -> C:
    """Reads one YAML file, with `overrides` (nested like the file) on top.

    Raises:
        ConfigError: names the file, the key and, for a typo, the key that was probably meant.
    """
    return _validate(config_type, _merge(config_type, _read_yaml(path), overrides or {}), str(path))


def parse(config_type: type[C], arguments: Sequence[str] | None = None, program: str | None = None) -> C:
    """Command line: an optional YAML file first, then `--key value` overrides, `--help` for all keys.

    Raises:
        ConfigError: as `load`; a wrong option on the command line is explained on the terminal and exits with 2.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if any(map(holds_credentials, arguments)):
        raise ConfigError(f"command line: {NO_CREDENTIALS}")
    path = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    values = _read_yaml(path) if path else {}
    _refuse_unknown(config_type, values, path or "command line")
    _refuse_wrong(config_type, values, path or "command line")
    default = _construct(config_type, values)
    usage = f"{program or Path(sys.argv[0]).name} CONFIG.yaml"
    token = _PARSED.set("command line")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values of the file are checked above, but tyro doubts their types
            parsed = tyro.cli(
                config_type,
                args=arguments,
                default=default,
                prog=usage,
                description=config_type.__doc__,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    finally:
        _PARSED.reset(token)
    return _validate(config_type, parsed.model_dump(mode="python"), path or "command line")


def _read_yaml(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config ({error.strerror}); give a YAML file first") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a list of `key: value` lines, found {type(values).__name__}")
    return values


def _validate(config_type: type[C], values: dict[str, Any], where: str) -> C:
    _refuse_unknown(config_type, values, where)
    try:
        return config_type.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from error


def _refuse_wrong(config_type: type[Config], values: dict[str, Any], where: str) -> None:
    """Refuses wrong values of a file; keys that it leaves out may still come from the command line."""
    try:
        config_type.model_validate(values)
    except ValidationError as error:
        if any(problem["type"] != "missing" for problem in error.errors()):
            raise ConfigError(_explain(error, where, forgive="missing")) from error


def _explain(error: ValidationError, where: str, forgive: str = "") -> str:
    lines = [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        + ("" if NO_CREDENTIALS in problem["msg"] else f" (got {problem['input']!r})")
        for problem in error.errors()
        if problem["type"] != forgive
    ]
    return f"{where}: " + "; ".join(lines)


def _refuse_unknown(config_type: type[Any], values: dict[str, Any], where: str, prefix: str = "") -> None:
    known = _fields(config_type)
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {prefix}{key}; {hint}")
        if _fields(known[key]) and isinstance(value, dict):
            _refuse_unknown(known[key], value, where, f"{prefix}{key}.")


def _fields(kind: Any) -> dict[str, Any]:
    """Name -> type of the fields of a config, or of a settings dataclass of `models`; empty for anything else."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {key: field.annotation for key, field in kind.model_fields.items()}
    if dataclasses.is_dataclass(kind):
        return get_type_hints(kind)
    return {}


def _construct(kind: Any, values: dict[str, Any]) -> Any:
    """An instance for tyro to start from: required keys that the file leaves out may still come from the terminal."""
    filled: dict[str, Any] = {}
    for key, annotation in _fields(kind).items():
        value = values.get(key, tyro.MISSING)
        if _fields(annotation) and isinstance(value, dict):
            filled[key] = _construct(annotation, value)
        elif value is not tyro.MISSING:
            filled[key] = tuple(value) if isinstance(value, list) else value
        elif issubclass(kind, BaseModel) and kind.model_fields[key].is_required():
            filled[key] = _construct(annotation, {}) if _fields(annotation) else tyro.MISSING
    return kind.model_construct(**filled) if issubclass(kind, BaseModel) else kind(**filled)


def _merge(kind: Any, values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`overrides` on top of `values`; a section is merged key by key, a dictionary of the user's own names replaced."""
    merged = dict(values)
    for key, value in overrides.items():
        section = _fields(kind).get(key)
        merged[key] = _merge(section, merged.get(key, {}), value) if _fields(section) else value
    return merged
