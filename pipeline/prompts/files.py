"""Files of prompts: text, JSONL and Parquet as rows of PROMPTS. What is no text is refused, never turned into some."""

from __future__ import annotations

import codecs
import io
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq
from pyarrow.types import (
    is_binary,
    is_decimal,
    is_dictionary,
    is_fixed_size_list,
    is_floating,
    is_integer,
    is_large_binary,
    is_large_list,
    is_large_string,
    is_list,
    is_null,
    is_string,
    is_string_view,
)

from pipeline.base.errors import DataError
from pipeline.storage.files import read_bytes
from pipeline.tables.conform import conform

PROMPTS = pa.schema([("prompt", pa.string()), ("weight", pa.float64()), ("class_ids", pa.list_(pa.int32()))])
"""Distinct prompts; one of weight 2 is used twice as often as one of weight 1. `class_ids` are the classes that a
prompt asks for, ascending; null where that is not known."""
KINDS = (
    "a text file (.txt) with one prompt per line, .jsonl or .parquet with a column `prompt` (and `weight`, "
    "`class_ids`), or the folder of a run"
)
TEXT, JSON_LINES, PARQUET = frozenset({"", ".txt", ".text", ".list", ".lst"}), (".jsonl", ".ndjson"), (".parquet",)
WANTED = {"prompt": "text", "weight": "a number", "class_ids": "a list of whole numbers"}
_AS_JSON = PROMPTS.set(2, pa.field("class_ids", pa.list_(pa.float64())))
"""Numbers of JSON may be written 1.0."""


def refuse_unknown(source: str) -> None:
    """Raises DataError where the name of a file says that it is in none of the forms that `read_file` reads."""
    suffix = suffix_of(source)
    if suffix not in {*TEXT, *JSON_LINES, *PARQUET}:
        raise DataError(f"{source}: prompts are not read from {suffix} files; give {KINDS}")


def suffix_of(source: str) -> str:
    """Lower case, with its dot; "" where there is none."""
    path = source.partition("?")[0] if "://" in source else source
    return PurePosixPath(path).suffix.lower()


def read_file(source: str) -> pa.Table:
    """All rows of a file as PROMPTS, in their order; null where it says nothing.

    Raises:
        DataError: another kind of file, or values of another type; says in which line.
        FileNotFoundError, IsADirectoryError: no file.
        ArrowException, ShardError: damaged.
    """
    content = read_bytes(source)
    refuse_unknown(source)
    suffix = suffix_of(source)
    rows = (_parquet if suffix in PARQUET else _json_lines if suffix in JSON_LINES else _text)(content, source)
    rows.validate(full=True)  # that strings are UTF-8
    without = pc.list_flatten(rows["class_ids"]).null_count and next(
        number for number, ids in enumerate(rows["class_ids"].to_pylist(), 1) if ids and None in ids
    )
    if without:
        raise DataError(f"{source}: class_ids of row {without} holds an empty value; it must be {WANTED['class_ids']}")
    return rows


def _text(content: bytes, source: str) -> pa.Table:
    # Lines of bytes end at CR and LF alone; those of str also at U+2028 and others, which may stand in a prompt.
    texts = []
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        try:
            texts.append(line.decode())
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: cannot read prompts, line {number} is not UTF-8; save it as UTF-8") from error
    return conform(pa.table({"prompt": pa.array(texts, pa.string())}), PROMPTS)


def _parquet(content: bytes, source: str) -> pa.Table:
    # Threads of Arrow's, here and below, end a process that has loaded torch with "terminate called".
    with pq.ParquetFile(io.BytesIO(content)) as file:
        names = file.schema_arrow.names
        _require_prompt(names, source)
        table = file.read(columns=[name for name in PROMPTS.names if name in names], use_threads=False)
    for field in table.schema:
        if not _fits(field.name, field.type):
            raise DataError(f"{source}: the column `{field.name}` holds {field.type}; it must be {WANTED[field.name]}")
    return conform(table, PROMPTS)


def _fits(name: str, kind: pa.DataType) -> bool:
    """Whether a Parquet column holds what WANTED says."""
    if is_dictionary(kind):
        kind = kind.value_type
    if is_null(kind):
        return True
    if name == "prompt":  # older writers do not mark text as such
        return any(fits(kind) for fits in (is_string, is_large_string, is_string_view, is_binary, is_large_binary))
    if name == "weight":
        return is_integer(kind) or is_floating(kind) or is_decimal(kind)
    is_any_list = is_list(kind) or is_large_list(kind) or is_fixed_size_list(kind)
    return is_any_list and (is_integer(kind.value_type) or is_null(kind.value_type))


def _json_lines(content: bytes, source: str) -> pa.Table:
    # A schema: else Arrow guesses, and makes times of texts that look like one.
    asked = pyarrow.json.ParseOptions(explicit_schema=_AS_JSON, unexpected_field_behavior="ignore")
    block_size = min(max(len(content), 2**20), 2**31 - 1)  # a line must not be longer
    options = pyarrow.json.ReadOptions(use_threads=False, block_size=block_size)
    try:
        rows = conform(pyarrow.json.read_json(io.BytesIO(content), options, asked), PROMPTS)
    except Exception:
        for number, problem in _problems(content):
            raise DataError(f"{source}: cannot read prompts, line {number}: {problem}") from None
        raise
    if rows["prompt"].null_count == rows.num_rows:
        _require_prompt(_keys(content), source)
    return rows


def _problems(content: bytes) -> Iterator[tuple[int, str]]:
    """Lines of JSONL that are none, by number, and why."""
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f'not JSON ({error}); a line is such as {{"prompt": "a red bag"}}'
            continue
        if not isinstance(row, dict):
            yield number, f'holds {shortened(row)}; a line is such as {{"prompt": "a red bag"}}'
            continue
        for key, wanted in WANTED.items():
            value = row.get(key)
            if value is not None and not _is_wanted(key, value):
                yield number, f"{key} is {shortened(value)}; it must be {wanted}"


def _is_wanted(key: str, value: Any) -> bool:
    """Whether a value of JSON is what WANTED says."""
    if key == "prompt":
        return isinstance(value, str) and not any("\ud800" <= sign <= "\udfff" for sign in value)
    if key == "weight":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < 2**31 and one == int(one)
        for one in value
    )


def _keys(content: bytes) -> list[str]:
    """Keys of the first object of JSONL."""
    with suppress(ValueError, RecursionError):
        first = next(line for line in content.removeprefix(codecs.BOM_UTF8).splitlines() if line.strip())
        return list(json.loads(first))
    return []


def _require_prompt(names: list[str], source: str) -> None:
    if "prompt" not in names:
        raise DataError(f"{source}: has no column `prompt`, only {', '.join(names)}; give {KINDS}")


def shortened(value: Any) -> str:
    """A value, to show."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
