"""Configs read from YAML files and the command line, strictly: a key that does not exist is an error."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
from pydantic import BaseModel, ValidationError

from pipeline.base.config import _PARSED, NO_CREDENTIALS, Config, _explain, holds_credentials
from pipeline.base.errors import ConfigError
from pipeline.base.strict_yaml import load_yaml

C = TypeVar("C", bound="Config")


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
    for argument in arguments:
        if any("\ud800" <= sign <= "\udfff" for sign in argument):  # how Python shows bytes that are no text
            raise ConfigError(f"command line: {argument!r} is not UTF-8, which names and paths must be; rename it")
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
                description=_description(config_type),
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    finally:
        _PARSED.reset(token)
    return _validate(config_type, parsed.model_dump(mode="python"), path or "command line")


def _read_yaml(path: str | Path) -> dict[str, Any]:
    path = Path(path).expanduser()
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config ({error.strerror}); give a YAML file first") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8; save the config as UTF-8") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
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
    known = _fields(config_type)

    def may_come(problem: Any) -> bool:
        first, *rest = problem["loc"]
        return problem["type"] == "missing" and not (rest and _holds_sections(known.get(str(first))))

    try:
        config_type.model_validate(values)
    except ValidationError as error:
        if not all(map(may_come, error.errors())):
            raise ConfigError(_explain(error, where, may_come)) from error


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


def _holds_sections(annotation: Any) -> bool:
    """Whether a key is a dictionary of sections under the user's own names, which only a file can give."""
    return get_origin(annotation) is dict and bool(_fields(get_args(annotation)[1]))


def _description(config_type: type[Config]) -> str:
    """What `--help` says before the options: what the job does, and the keys that are no options."""
    lines = [config_type.__doc__ or ""]
    for key, field in config_type.model_fields.items():
        if _holds_sections(field.annotation):
            section = get_args(field.annotation)[1]
            told = {
                f"{key} (in the file alone)": field,
                **{f"  {name}": of for name, of in section.model_fields.items()},
            }
            lines += ["", *(f"{name}: {' '.join((one.description or '').split())}" for name, one in told.items())]
    return "\n".join(lines)


def _construct(kind: Any, values: dict[str, Any]) -> Any:
    """An instance for tyro to start from: required keys that the file leaves out may still come from the terminal."""
    filled: dict[str, Any] = {}
    for key, annotation in _fields(kind).items():
        value = values.get(key, tyro.MISSING)
        if _fields(annotation) and isinstance(value, dict):
            filled[key] = _construct(annotation, value)
        elif value is not tyro.MISSING:
            filled[key] = tuple(value) if isinstance(value, list) else value
        elif _holds_sections(annotation):
            filled[key] = {}  # no option can name what the user names; whether it may be empty is checked later
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
