"""Places: paths and URLs in configs. They are resolved once, when a config is loaded."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

from pipeline.base.errors import ConfigError


def absolute(path: str) -> str:
    """A local path as every worker finds it, whatever its working directory; URLs stay as they are.

    Raises:
        ConfigError: a path that fsspec would take for a chain of file systems, and cut.
    """
    if "://" in path:
        return path
    found = os.path.abspath(os.path.expanduser(path))
    if "::" in found:
        raise ConfigError(f"{found}: a path must not hold `::`; rename the folder or file")
    return found


def is_seen_by_all(place: str) -> bool:
    """Whether every machine of a cluster may find a place that was given so: a URL or an absolute path."""
    return "://" in place or os.path.isabs(place)


class Located(str):
    """A place as every worker finds it, whatever its working folder.

    Attributes:
        kind: what must be there before a job starts, for messages; "" where nothing need be.
        given: the text that the user gave.
    """

    kind = ""
    given: str

    def __new__(cls, text: str) -> Located:
        self = super().__new__(cls, absolute(text).rstrip("/") or "/")
        self.given = text
        return self


class LocatedFolder(Located):
    """A folder that a job reads."""

    kind = "folder"


class LocatedFile(Located):
    """A file or folder that a job reads."""

    kind = "file or folder"


class Sent(LocatedFolder):
    """One that goes with a job to a cluster, where it lies in the checkout."""


def _resolved(kind: type[Located], is_path: Callable[[str], bool] = bool) -> WrapValidator:
    def resolve(value: Any, handler: ValidatorFunctionWrapHandler) -> str:
        if isinstance(value, Located):
            return value
        text = handler(value)
        try:
            return kind(text) if text and is_path(text) else text
        except ConfigError as error:
            raise ValueError(str(error)) from error  # is told with the key

    return WrapValidator(resolve)


def _looks_like_a_path(text: str) -> bool:
    return "://" in text or text.startswith((".", "/", "~")) or text.endswith((".yaml", ".yml"))


def _is_path_or_there(text: str) -> bool:
    return _looks_like_a_path(text) or os.path.exists(text)


def _is_path_of_labels(text: str) -> bool:
    return _looks_like_a_path(text) or "/" in text


Place = Annotated[str, _resolved(Located), PlainSerializer(str, when_used="json")]
"""A path that every machine sees, or a URL ("s3://bucket/run"); "" where there is none."""

Folder = Annotated[str, _resolved(LocatedFolder), PlainSerializer(str, when_used="json")]
"""The same, of a folder that must be there before a job starts."""

FileOrFolder = Annotated[str, _resolved(LocatedFile), PlainSerializer(str, when_used="json")]
"""The same, of a file or folder."""

SentFolder = Annotated[str, _resolved(Sent), PlainSerializer(str, when_used="json")]
"""A folder as `Folder`; one of the checkout goes with a job that is sent to a cluster."""

NameOrPlace = Annotated[str, _resolved(LocatedFile, _is_path_or_there), PlainSerializer(str, when_used="json")]
"""A name on the Hugging Face hub, or a path or URL: what is written like a path or exists as one is one."""

LabelsOrPlace = Annotated[str, _resolved(LocatedFile, _is_path_of_labels), PlainSerializer(str, when_used="json")]
"""A label space by its name, or a path or URL. A word alone is a name, also beside a folder of that name."""


def places(config: BaseModel) -> Iterator[tuple[str, Located]]:
    """Dotted key and value of every place in a config."""

    def walk(key: str, value: Any) -> Iterator[tuple[str, Located]]:
        if isinstance(value, Located):
            yield key, value
        elif isinstance(value, BaseModel):
            for name in type(value).model_fields:
                yield from walk(f"{key}.{name}" if key else name, getattr(value, name))
        elif isinstance(value, dict):
            for name, one in value.items():
                yield from walk(f"{key}.{name}", one)
        elif isinstance(value, tuple | list):
            for one in value:
                yield from walk(key, one)

    yield from walk("", config)


def as_given(place: str) -> str:
    """A place as the user wrote it, to show."""
    return getattr(place, "given", place)


def check_inputs(config: BaseModel) -> None:
    """Looks for what a config names, as far as that takes no time: a typo should be told before Ray starts. URLs are
    left to those who read them.

    Raises:
        ConfigError: says which key, and what may have been meant.
    """
    for key, place in places(config):
        if not place.kind or "://" in place:
            continue
        if os.path.isdir(place) or ("file" in place.kind and os.path.exists(place)):
            continue
        if os.path.exists(place):
            raise ConfigError(f"{key}: {place.given} is a file, not a {place.kind}")
        raise ConfigError(f"{key}: there is no {place.kind} {place.given}; {_meant(place) or 'check the path'}")


def _meant(path: str) -> str:
    """What may have been meant by a path that is not there; "" where nothing is like it."""
    folder, name = os.path.split(path)
    try:
        close = difflib.get_close_matches(name, os.listdir(folder), n=1)
    except OSError:
        return f"there is no folder {folder}"
    return f"did you mean {os.path.join(folder, close[0])}?" if close else ""
