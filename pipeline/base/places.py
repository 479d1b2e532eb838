"""Places: paths and URLs in configs. They are resolved once, when a config is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

from pipeline.base.config import absolute


class Located(str):
    """A place as every worker finds it, whatever its working folder.

    Attributes:
        given: the text that the user gave.
    """

    given: str

    def __new__(cls, text: str) -> Located:
        self = super().__new__(cls, absolute(text).rstrip("/") or "/")
        self.given = text
        return self


class Sent(Located):
    """One that goes with a job to a cluster, where it lies in the checkout."""


def _resolved(kind: type[Located], is_path: Callable[[str], bool] = bool) -> WrapValidator:
    def resolve(value: Any, handler: ValidatorFunctionWrapHandler) -> str:
        if isinstance(value, Located):
            return value
        text = handler(value)
        return kind(text) if text and is_path(text) else text

    return WrapValidator(resolve)


def _looks_like_a_path(text: str) -> bool:
    return "://" in text or text.startswith((".", "/", "~")) or text.endswith((".yaml", ".yml"))


def _is_path_or_there(text: str) -> bool:
    return _looks_like_a_path(text) or os.path.exists(text)


def _is_path_of_labels(text: str) -> bool:
    return _looks_like_a_path(text) or "/" in text


Place = Annotated[str, _resolved(Located), PlainSerializer(str, when_used="json")]
"""A path that every machine sees, or a URL ("s3://bucket/run"); "" where there is none."""

SentPlace = Annotated[str, _resolved(Sent), PlainSerializer(str, when_used="json")]
"""The same; a folder of the checkout goes with a job that is sent to a cluster."""

NameOrPlace = Annotated[str, _resolved(Located, _is_path_or_there), PlainSerializer(str, when_used="json")]
"""A name on the Hugging Face hub, or a path or URL: what is written like a path or exists as one is one."""

LabelsOrPlace = Annotated[str, _resolved(Located, _is_path_of_labels), PlainSerializer(str, when_used="json")]
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
