"""Places: paths and URLs in configs. They are resolved once, when a config is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

from models.labels import NAMES
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


def _resolved(kind: type[Located], only_paths: bool = False) -> WrapValidator:
    def resolve(value: Any, handler: ValidatorFunctionWrapHandler) -> str:
        if isinstance(value, Located):
            return value
        text = handler(value)
        return kind(text) if text and (not only_paths or _is_path(text)) else text

    return WrapValidator(resolve)


def _is_path(text: str) -> bool:
    if text in NAMES:  # also where a folder of that name is near
        return False
    return "://" in text or text.startswith((".", "/", "~")) or text.endswith((".yaml", ".yml")) or os.path.exists(text)


Place = Annotated[str, _resolved(Located), PlainSerializer(str, when_used="json")]
"""A path that every machine sees, or a URL ("s3://bucket/run"); "" where there is none."""

SentPlace = Annotated[str, _resolved(Sent), PlainSerializer(str, when_used="json")]
"""The same; a folder of the checkout goes with a job that is sent to a cluster."""

NameOrPlace = Annotated[str, _resolved(Located, only_paths=True), PlainSerializer(str, when_used="json")]
"""A name (of a label space, or on the Hugging Face hub), or a path or URL: what is written like a path, or exists as
one, is one."""


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
