"""Pictures are seen by Hugging Face; latents carry their shapes."""

from __future__ import annotations

import json

import pyarrow as pa

from pipeline.tables.ids import latent_id
from pipeline.tables.schema import PAIR, PICTURE, latent_schema, latent_shapes, viewable


def test_hugging_face_metadata_follows_added_columns() -> None:
    schema = viewable(PAIR.append(pa.field("clip_score", pa.float32())).append(pa.field("overlay", PICTURE)))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["clip_score"] == {"dtype": "float32", "_type": "Value"}
    assert features["overlay"] == features["image"] == features["mask"] == {"_type": "Image"}
    assert features["origin"] == {"dtype": "string", "_type": "Value"}


def test_latents_carry_their_shapes() -> None:
    shapes = {"image_latent": (4, 8, 8), "text_embedding": (77, 64)}
    schema = latent_schema(shapes, encoders="abc")
    assert latent_shapes(schema) == shapes
    assert schema.metadata[b"encoders"] == b"abc"
    assert latent_id("ab", flipped=False) == "ab" != latent_id("ab", flipped=True)
