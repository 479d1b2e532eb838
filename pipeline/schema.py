"""The tables that everything reads and writes, and the ids and seeds of their rows.

The first column of a table is its key. Every column may be null in Arrow, because the Hugging Face reader drops the
picture decoder of a column that may not; `conform` enforces the columns that are marked as required.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.base.errors import ShardError

Batch = dict[str, np.ndarray]
"""What a stage takes and returns: columns of one length."""

REASONS = (
    "empty_prompt",
    "prompt_too_long",
    "non_finite_latent",
    "missing_file",
    "undecodable_input",
    "wrong_mask",
    "no_caption",
    "sampler_failed",
    "sampler_died",
)
"""Why a row could not be made. Kept short, so that failures can be counted; the story goes into `detail`."""

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An encoded picture as the Hugging Face Hub shows it; `path` is null."""

CATEGORY = pa.dictionary(pa.int32(), pa.string())
"""A string that few distinct values share."""


def viewable(schema: pa.Schema) -> pa.Schema:
    """`schema` with the metadata that makes `datasets.load_dataset` and the Hub viewer decode its pictures.

    Call it again after adding columns: `viewable(PAIR.append(pa.field("clip_score", pa.float32())))`.
    """
    features = {field.name: _feature(field.type) for field in schema}
    hugging_face = json.dumps({"info": {"features": features}})
    return schema.with_metadata({**(schema.metadata or {}), b"huggingface": hugging_face.encode()})


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns of `schema`, in its order and types.

    Absent columns become null and unknown ones are dropped. A plain binary column is taken as the bytes of a picture
    where `schema` has one, and Ray's one-dimensional tensors become lists.

    Raises:
        ShardError: a required column is absent or holds nulls, or a column cannot be cast.
    """
    columns = []
    for field in schema:
        if field.name in table.column_names:
            column = _cast(table[field.name], field)
        else:
            column = pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        if _is_required(field) and column.null_count:
            raise ShardError(
                f"column {field.name!r}: {column.null_count} of {table.num_rows} rows have no value, but every row "
                f"needs one; the table has {table.column_names}"
            )
        columns.append(column)
    return pa.table(columns, schema=schema)


def object_column(values: Iterable[object]) -> np.ndarray:
    """A column of Python objects; numpy would make one array of rows that happen to have equal lengths."""
    rows = list(values)
    column = np.empty(len(rows), object)
    for row, value in enumerate(rows):
        column[row] = value
    return column


def captions_of(row: Mapping[str, Any]) -> list[str]:
    """The captions of a row of PAIR, its prompt where it has none: without space around them, each once, no empty ones.
    A row of an older release may lack the column."""
    captions = row.get("captions")
    texts = [row["prompt"]] if captions is None or not len(captions) else captions
    return list(dict.fromkeys(text for one in texts if (text := str(one or "").strip())))


def prompt_id(prompt: str) -> str:
    """16 hex digits that name a prompt's exact text."""
    return _digest("prompt", 8, prompt).hex()


def pair_seed(run_seed: int, prompt_id: str, repeat: int) -> int:
    """The seed of a pair's own noise, in [0, 2**63): from what the pair is, never from where or when it is made."""
    return int.from_bytes(_digest("seed", 8, str(run_seed), str(repeat), prompt_id)) >> 1


def pair_id(prompt: str, seed: int, bundle_digest: str, sampler_settings: str) -> str:
    """32 hex digits that name a generated pair.

    Args:
        prompt: the text.
        seed: of the pair's noise, see `pair_seed`.
        bundle_digest: of the weights.
        sampler_settings: canonical JSON (see `canonical_json`), as in the column `sampler`.
    """
    return _digest("pair", 16, str(seed), bundle_digest, sampler_settings, prompt).hex()


def real_pair_id(dataset: str, key: str) -> str:
    """32 hex digits that name an ingested pair: the data set, and the pair's name within it."""
    return _digest("real", 16, dataset, key).hex()


def latent_id(pair_id: str, flipped: bool = False, crop: int = 0, caption: int = 0) -> str:
    """The key of a pair's latents: each further crop and caption of it, and its mirrored picture, has its own."""
    parts = [f"crop{crop}" if crop else "", f"caption{caption}" if caption else "", "flipped" if flipped else ""]
    return "-".join([pair_id, *(part for part in parts if part)])


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: keys sorted, no spaces. ValueError or TypeError where there is none."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def text_digest(value: Any) -> str:
    """16 hex digits of `value`'s canonical JSON."""
    return blake2b(canonical_json(value).encode(), digest_size=8).hexdigest()


def latent_schema(shapes: Mapping[str, tuple[int, ...]], encoders: str) -> pa.Schema:
    """LATENT with what is needed to read it.

    Args:
        shapes: of one row of each binary column, e.g. `{"image_latent": (4, 64, 64)}`.
        encoders: digest of the frozen encoders that made the latents.
    """
    return LATENT.with_metadata({"shapes": canonical_json(shapes), "dtype": "float16", "encoders": encoders})


def latent_shapes(schema: pa.Schema) -> dict[str, tuple[int, ...]]:
    """The shapes that `latent_schema` wrote."""
    return {name: tuple(shape) for name, shape in json.loads(schema.metadata[b"shapes"]).items()}


def _digest(kind: str, size: int, *parts: str) -> bytes:
    # Only the last part may hold a NUL (a prompt is any text), so that no two lists of parts give the same bytes.
    return blake2b("\0".join(parts).encode(), digest_size=size, person=kind.encode()).digest()


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, metadata={"required": "true"})


def _is_required(field: pa.Field) -> bool:
    return b"required" in (field.metadata or {})


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        if pa.types.is_struct(column.type):  # a ragged tensor: its numbers, and a shape that the list's length repeats
            column = pa.chunked_array([chunk.field("data") for chunk in column.chunks], column.type.field("data").type)
    try:
        if field.type == PICTURE and pa.types.is_binary(column.type):
            return pa.chunked_array([_picture(chunk) for chunk in column.chunks], PICTURE)
        if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(column.type):
            return column.cast(field.type.value_type).dictionary_encode()
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise ShardError(f"column {field.name!r}: {column.type} cannot become {field.type} ({error})") from error


def _picture(encoded: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays(
        [encoded, pa.nulls(len(encoded), pa.string())], fields=list(PICTURE), mask=encoded.is_null()
    )


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == PICTURE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        # Releases of `datasets` before 4 know no "List"; later ones read "Sequence" as one.
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    name = {"float": "float32", "double": "float64", "halffloat": "float16"}.get(str(kind), str(kind))
    return {"dtype": "string" if pa.types.is_dictionary(kind) else name, "_type": "Value"}


PROMPT = pa.schema(
    [
        _required("pair_id", pa.string()),
        _required("prompt_id", pa.string()),
        _required("prompt", pa.string()),
        _required("seed", pa.int64()),
        _required("repeat", pa.int32()),
        pa.field("prompt_class_ids", pa.list_(pa.int32())),
    ]
)
"""A pair still to be made: `seed` is its own noise seed, `repeat` counts the pairs of one prompt from 0,
`prompt_class_ids` are the classes that the prompt asks for, null where that is not known."""

PAIR = viewable(
    pa.schema(
        [
            _required("pair_id", pa.string()),
            pa.field("prompt", pa.string()),
            pa.field("seed", pa.int64()),
            _required("image", PICTURE),
            _required("mask", PICTURE),
            _required("height", pa.int32()),
            _required("width", pa.int32()),
            _required("class_ids", pa.list_(pa.int32())),
            _required("class_pixels", pa.list_(pa.int64())),
            pa.field("confidence_mean", pa.float32()),
            pa.field("confidence", PICTURE),
            pa.field("changed_pixels", pa.int32()),
            _required("origin", CATEGORY),
            pa.field("bundle", CATEGORY),
            pa.field("sampler", CATEGORY),
            pa.field("prompt_class_ids", pa.list_(pa.int32())),
            pa.field("captions", pa.list_(pa.string())),
            pa.field("dataset", CATEGORY),
            pa.field("split", CATEGORY),
            pa.field("key", pa.string()),
        ]
    )
)
"""An image with its mask. `class_ids` are the ids in the mask, ascending, with their areas in `class_pixels`.

`bundle`, `sampler` and `prompt_class_ids` (classes that the prompt is known to ask for) are of generated pairs;
`captions` (all of them; `prompt` is the first), `dataset`, `split` and `key` (the name there) are of real ones."""

ERROR = pa.schema(
    [
        _required("pair_id", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("seed", pa.int64()),
        _required("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""A pair that could not be made; `reason` is one of REASONS."""

LATENT = pa.schema(
    [
        _required("latent_id", pa.string()),
        _required("pair_id", pa.string()),
        _required("flipped", pa.bool_()),
        pa.field("crop", pa.int32()),
        pa.field("caption", pa.int32()),
        pa.field("box", pa.list_(pa.float32())),
        _required("image_latent", pa.binary()),
        _required("mask_latent", pa.binary()),
        _required("image_embedding", pa.binary()),
        _required("text_embedding", pa.binary()),
    ]
)
"""What training reads: float16, little-endian, C order; shapes are in the metadata (`latent_schema`).

`crop` 0 is the middle of the picture, `caption` its number among the pair's, `box` the part of the picture that is
seen: left, upper, right and lower edge in its pixels."""
