"""Configuration: frozen pydantic models that refuse unknown keys, read from YAML, overridden on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import to_jsonable_python

from pipeline.base.errors import ConfigError
from pipeline.base.places import check_inputs

_PARSED: ContextVar[str] = ContextVar("parsed", default="")
"""What the command-line parser builds configs from; it would print pydantic's own page for a wrong value."""
NO_CREDENTIALS = "credentials do not belong into a URL; give them in the environment"


def holds_credentials(value: Any) -> bool:
    """Whether a text is a URL with a user, a password or a signature in it."""
    return isinstance(value, str) and bool(re.search(r"://[^/\s]*@|[?&](X-Amz-|X-Goog-|sig=|token=)", value, re.I))


class Config(BaseModel):
    """Base of every configuration. The text under a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

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

    def defaults(self) -> dict[str, Any]:
        """The values, as of `dump`, of the keys that need not be given."""
        found: dict[str, Any] = {}
        for key, field in type(self).model_fields.items():
            if not field.is_required():
                found[key] = to_jsonable_python(field.get_default(call_default_factory=True))
            elif isinstance(section := getattr(self, key), Config):
                found[key] = section.defaults()
        return found

    def check_inputs(self) -> None:
        """Looks for what the config names, as far as that takes no time: a typo should be told before Ray starts.

        Raises:
            ConfigError: as `pipeline.base.places.check_inputs`.
        """
        check_inputs(self)


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


def _explain(error: ValidationError, where: str, forgiven: Callable[[Any], bool] = lambda problem: False) -> str:
    lines = [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}"
        + ("" if NO_CREDENTIALS in problem["msg"] else f" (got {problem['input']!r})")
        for problem in error.errors()
        if not forgiven(problem)
    ]
    return f"{where}: " + "; ".join(lines)
