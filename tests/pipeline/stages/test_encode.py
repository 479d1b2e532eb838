"""Encoding of pairs of any size: which rows there are, and that each is of the part of the picture that it names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.frozen import image_to_latent
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.pictures.squares import View, seen, seen_mask
from pipeline.stages.encode import EncodePairs, Views
from pipeline.tables.conform import object_column
from pipeline.tables.schema import captions_of
from tests.pipeline.datasets.trees import mask_of, picture
from tests.tiny import tiny_encoders


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    tiny_encoders().save(folder)
    return str(folder)


def pairs(*rows):
    """(pair_id, height, width, captions) -> a batch as PAIR holds them."""
    columns: dict[str, list[Any]] = {name: [] for name in ("pair_id", "prompt", "captions", "image", "mask")}
    for pair_id, height, width, captions in rows:
        columns["pair_id"].append(pair_id)
        columns["prompt"].append(captions[0] if captions else "")
        columns["captions"].append(np.array(captions, object))
        columns["image"].append({"bytes": encode_image(picture(3, width, height)), "path": None})
        columns["mask"].append({"bytes": encode_mask(mask_of(2, width=width, height=height)), "path": None})
    return {name: object_column(values) for name, values in columns.items()}


def test_pictures_of_several_sizes_are_encoded_at_one(encoders):
    stage = EncodePairs(encoders, Views(size_px=16))

    rows = stage(pairs(("a", 20, 30, ["x"]), ("b", 40, 17, ["y"])))

    assert rows["latent_id"].tolist() == ["a", "b"]
    assert [box.tolist() for box in rows["box"]] == [[5, 0, 25, 20], [0, 11.5, 17, 28.5]]
    assert {len(latent) for latent in rows["image_latent"]} == {4 * 4 * 4 * 2}, "float16"


def test_every_crop_caption_and_mirror_image_is_a_row_of_its_own(encoders):
    views = Views(size_px=16, crops=2, crop_scale=0.5, captions=2, flip=True)

    rows = EncodePairs(encoders, views)(pairs(("a", 20, 30, ["a red bag", "a dress", "fur"]), ("b", 20, 30, [])))

    assert rows["latent_id"].tolist() == [*views.ids("a", 3), *views.ids("b", 0)]
    assert len(set(rows["latent_id"])) == 2 * 3 * 2 + 2 * 3
    assert rows["latent_id"][:4].tolist() == ["a", "a-caption1", "a-crop1", "a-crop1-caption1"]
    by_id = {key: row for row, key in enumerate(rows["latent_id"])}
    text = rows["text_embedding"]
    assert text[by_id["a"]] == text[by_id["a-crop1-flipped"]] != text[by_id["a-caption1"]]


def test_a_row_is_of_the_part_of_the_picture_that_it_names(encoders):
    batch = pairs(("a", 20, 30, ["x"]))
    stage = EncodePairs(encoders, Views(size_px=16, crops=1, crop_scale=0.5, flip=True))

    rows = stage(batch)

    for row, key in enumerate(rows["latent_id"]):
        left, top, right, _ = rows["box"][row].astype(float)
        view = View(top, left, right - left)
        pixels = seen(picture(3, 30, 20), view, 16)[:, :: -1 if "flipped" in key else 1].copy()
        signal = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            wanted = image_to_latent(stage.encoders.image_vae, signal).half().numpy().reshape(-1)
        found = np.frombuffer(rows["image_latent"][row], "<f2")
        np.testing.assert_allclose(found.astype(np.float32), wanted.astype(np.float32), atol=5e-3)
    assert rows["flipped"].tolist() == [False, False, True, True]
    assert seen_mask(mask_of(2, width=30, height=20), view, 16).shape == (16, 16)


def test_the_number_of_rows_at_once_changes_nothing(encoders):
    batch = pairs(("a", 16, 16, ["x"]), ("b", 16, 16, ["y"]), ("c", 16, 16, ["z"]))

    one, all_ = (EncodePairs(encoders, batch_size=size)(batch) for size in (1, 3))

    for name in ("image_latent", "mask_latent", "text_embedding"):
        for left, right in zip(one[name], all_[name], strict=True):
            np.testing.assert_allclose(np.frombuffer(left, "<f2"), np.frombuffer(right, "<f2"), atol=5e-3)


def test_a_damaged_picture_is_an_error_and_the_others_are_encoded(encoders):
    batch = pairs(("a", 16, 16, ["x"]), ("b", 16, 16, ["y"]), ("c", 16, 16, ["z"]))
    batch["image"][0] = {"bytes": batch["image"][0]["bytes"][:40], "path": None}
    batch["mask"][1] = {"bytes": encode_mask(mask_of(99, width=16, height=16)), "path": None}

    rows = EncodePairs(encoders)(batch)

    assert sorted(zip(rows["pair_id"], rows["error"], strict=True)) == [
        ("a", "undecodable_input"),
        ("b", "wrong_mask"),
        ("c", ""),
    ]


def test_texts_are_the_captions_or_the_prompt():
    assert captions_of({"prompt": "p", "captions": ["a", " ", "b"]}) == ["a", "b"]
    assert captions_of({"prompt": "p", "captions": None}) == captions_of({"prompt": "p"}) == ["p"]
    assert captions_of({"prompt": None, "captions": []}) == []


def test_a_picture_without_a_mask_has_no_latent_of_one(encoders):
    batch = pairs(("a", 16, 16, ["x"]), ("b", 16, 16, ["y"]))
    both = EncodePairs(encoders)(batch)
    batch["mask"][1] = None

    rows = EncodePairs(encoders)(batch)

    assert rows["mask_latent"].tolist() == [both["mask_latent"][0], b""] and not any(rows["mask_weight"])
    for name in ("image_latent", "image_embedding", "text_embedding"):
        assert rows[name].tolist() == both[name].tolist()


def test_what_a_teacher_was_not_sure_of_weighs_nothing_and_looks_like_what_is_beside_it(encoders):
    sure = mask_of(2, width=16, height=16)
    sure[2:4, 3:] = 2
    unsure = np.where(np.arange(16) < 10, sure, 255).astype(np.uint8)
    batch = pairs(*[(name, 16, 16, ["x"]) for name in "abcd"])
    for row, mask in enumerate((sure, unsure, unsure, sure)):
        batch["mask"][row] = {"bytes": encode_mask(mask), "path": None}
    batch["origin"] = object_column(["labelled", "labelled", "real", "real"])

    rows = EncodePairs(encoders)(batch)

    weights = np.frombuffer(rows["mask_weight"][1], "<f2").reshape(4, 4)
    assert weights.tolist() == [[1, 1, 0.5, 0]] * 4
    assert [bool(weight) for weight in rows["mask_weight"]] == [False, True, False, False], "void of people is a class"
    _, as_teacher, as_void, as_filled = (np.frombuffer(row, "<f2").astype(float) for row in rows["mask_latent"])
    np.testing.assert_allclose(as_teacher, as_filled, atol=2e-3)
    assert abs(as_void - as_filled).max() > 0.05


def test_prompts_of_mirrored_pictures_change_sides(encoders):
    views = Views(flip=True, mirrored_words={"left": "right"})

    mirrored = EncodePairs(encoders, views)(pairs(("a", 16, 16, ["a bag left of a boot"])))
    texts = ("a bag left of a boot", "a bag right of a boot")
    plain = EncodePairs(encoders)(pairs(*[("a", 16, 16, [text]) for text in texts]))

    assert mirrored["text_embedding"].tolist() == plain["text_embedding"].tolist()
