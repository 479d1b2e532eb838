"""Pictures are the same by their pixels, whatever file they were in, and whatever release read them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.pictures.codec import encode_image
from pipeline.pictures.photograph import content_digest, read_photograph
from pipeline.tables.conform import conform
from pipeline.tables.contents import contents_of
from pipeline.tables.schema import LATENT, PAIR
from pipeline.tables.shards import write_table

RNG = np.random.default_rng(0)
ONE, OTHER = RNG.integers(0, 255, (2, 6, 4, 3), np.uint8)


def save(folder, columns, schema=PAIR):
    write_table(conform(pa.table(columns), schema), f"{folder}/shards")
    return str(folder)


def pairs(**columns):
    num = len(columns["pair_id"])
    empty = {"height": [6] * num, "width": [4] * num, "class_ids": [[]] * num, "class_pixels": [[]] * num}
    return {**empty, "origin": ["real"] * num, "image": [encode_image(ONE)] * num, **columns}


def test_a_digest_is_of_pixels_and_of_their_shape() -> None:
    png, webp = (read_photograph(encode_image(ONE, kind), "here") for kind in ("png", "webp"))

    assert png.digest == webp.digest == content_digest(ONE) != content_digest(OTHER)
    assert content_digest(ONE) != content_digest(ONE.transpose(1, 0, 2))


def test_digests_are_read_where_they_are_and_made_where_an_earlier_release_wrote_none(tmp_path) -> None:
    images = [encode_image(ONE), encode_image(OTHER, "webp"), b"broken"]
    folder = save(tmp_path, pairs(pair_id=["a", "b", "c"], image=images, image_digest=["known", None, None]))

    assert contents_of(folder) == {"a": "known", "b": content_digest(OTHER)}


def test_pictures_without_digests_are_decoded_once_a_process(tmp_path, monkeypatch) -> None:
    folder = save(tmp_path, pairs(pair_id=["a", "b"]))
    found = contents_of(folder)
    monkeypatch.setattr("pipeline.tables.contents.decode_image", None)

    assert contents_of(folder) == found == dict.fromkeys("ab", content_digest(ONE))


def test_generated_pictures_and_latents_have_none(tmp_path) -> None:
    made = save(tmp_path / "a", pairs(pair_id=["a", "b"], origin=["synthetic", "labelled"]))
    key = {name: [b""] for name in ("image_latent", "mask_latent", "image_embedding", "text_embedding")}
    latents = save(tmp_path / "b", {"latent_id": ["a"], "pair_id": ["a"], "flipped": [False], **key}, LATENT)

    assert contents_of(made).keys() == {"b"} and contents_of(latents) == {}


def test_many_pictures_without_digests_are_left_alone_and_that_is_said(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("pipeline.tables.contents.MAX_DECODED", 1)

    assert contents_of(save(tmp_path, pairs(pair_id=["a", "b"]))) == {}
    assert "ingest them again" in caplog.text
