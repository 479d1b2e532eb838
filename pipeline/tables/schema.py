"""The tables that everything reads and writes: their columns, and what those mean.

The first column of a table is its key. Every column may be null in Arrow, because the Hugging Face reader drops the
picture decoder of a column that may not; `conform` enforces the columns that are marked as required.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.tables.ids import canonical_json

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
    "process_died",
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


def captions_of(row: Mapping[str, Any]) -> list[str]:
    """The captions of a row of PAIR, its prompt where it has none: without space around them, each once, no empty ones.
    A row of an older release may lack the column."""
    captions = row.get("captions")
    texts = [row["prompt"]] if captions is None or not len(captions) else captions
    return list(dict.fromkeys(text for one in texts if (text := str(one or "").strip())))


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


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, metadata={"required": "true"})


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
            pa.field("mask", PICTURE),
            _required("height", pa.int32()),
            _required("width", pa.int32()),
            _required("class_ids", pa.list_(pa.int32())),
            _required("class_pixels", pa.list_(pa.int64())),
            pa.field("confidence_mean", pa.float32()),
            pa.field("confidence", PICTURE),
            pa.field("changed_pixels", pa.int32()),
            pa.field("draws", pa.int32()),
            pa.field("guidance_difference", pa.float32()),
            _required("origin", CATEGORY),
            pa.field("bundle", CATEGORY),
            pa.field("sampler", CATEGORY),
            pa.field("prompt_class_ids", pa.list_(pa.int32())),
            pa.field("captions", pa.list_(pa.string())),
            pa.field("dataset", CATEGORY),
            pa.field("split", CATEGORY),
            pa.field("key", pa.string()),
            pa.field("image_digest", pa.string()),
        ]
    )
)
"""An image with its mask. `class_ids` are the ids in the mask, ascending, with their areas in `class_pixels`. A picture
that nobody has labelled has no mask (null), and both lists are empty; those of a mask never are.

`bundle`, `sampler`, `prompt_class_ids` (classes that the prompt is known to ask for), `draws` (how often it was drawn
until its mask held them; null where `generate --redraws` was not asked for) and `guidance_difference` (of
`models.sampler.Pairs`; null where no step was guided) are of generated pairs; `captions` (all of them; `prompt` is the
first), `dataset`, `split`, `key` (the name there) and `image_digest` (of the pixels as they were read:
`pipeline.pictures.photograph.content_digest`) are of real ones."""
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
        pa.field("mask_weight", pa.binary()),
    ]
)
"""What training reads: float16, little-endian, C order; shapes are in the metadata (`latent_schema`).

`mask_latent` is empty where the picture has no mask. `mask_weight` is the share of each of its cells whose class is
known, (h, w); null or empty where all count. `crop` 0 is the middle of the picture, `caption` its number among the
pair's, `box` the part of the picture that is seen: left, upper, right and lower edge in its pixels."""
