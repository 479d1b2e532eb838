from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from models.labels import VOC
from pipeline.base.errors import DataError
from pipeline.formats.part import SUFFIXES, all_jpeg, as_chosen, pairs_of, suffix_of
from pipeline.formats.parts import parts_of
from pipeline.pictures.codec import decode_image, decode_mask, encode_image, encode_mask
from pipeline.tables.shards import list_shards
from tests.pipeline.formats.fabricated import save_noise, save_rows, save_set, tree_of


def read(folder, tree):
    left_out: dict[str, str] = {}
    parts = parts_of({"train": list_shards(str(folder))})
    return {pair.name: pair for part in parts for pair in pairs_of(part, tree, left_out)}, left_out


def test_pairs_come_as_they_were_put_in(tmp_path):
    made = save_set(tmp_path / "a", VOC)

    pairs, left_out = read(tmp_path / "a", tree_of(tmp_path, VOC))

    assert pairs.keys() == made.rows.keys() and not left_out
    assert sorted(pair.number for pair in pairs.values()) == [1, 2, 3, 4, 5]
    for name, pair in pairs.items():
        assert pair.image == made.rows[name]["image"] and pair.encoded_mask == made.rows[name]["mask"]
        assert (pair.mask == made.masks[name]).all() and (pair.pixels == made.image(name)).all()
        assert pair.facts["class_ids"] == made.rows[name]["class_ids"]
    assert {pair.suffix for pair in pairs.values()} == {"png", "jpg", "webp"}
    assert pairs[list(made.rows)[1]].captions == ["a 1", "b"] and pairs[list(made.rows)[4]].captions == ["a 4"]


def test_damaged_pairs_are_left_out_and_named(tmp_path):
    rows = list(save_set(tmp_path / "a", VOC, 5).rows.values())
    wrong = np.full((32, 32), 77, np.uint8)
    damage = [
        {"image": rows[0]["image"][:100]},
        {"mask": b"no picture"},
        {"mask": encode_mask(np.zeros((5, 5), np.uint8))},
        {"mask": encode_mask(wrong)},
        {},
    ]
    save_rows([{**row, **harm} for row, harm in zip(rows, damage, strict=True)], tmp_path / "b")

    pairs, left_out = read(tmp_path / "b", tree_of(tmp_path, VOC))

    assert list(pairs) == [rows[4]["pair_id"]] and pairs[rows[4]["pair_id"]].number == 5
    assert list(left_out) == [row["pair_id"] for row in rows[:4]]
    assert [
        word in why for word, why in zip(["decoded", "decoded", "but the mask", "77"], left_out.values(), strict=True)
    ]
    assert all(name in why for name, why in left_out.items())


def test_uncertain_pixels_of_generated_pairs_are_ignored(tmp_path):
    made = save_set(tmp_path / "a", VOC)
    real, *_, synthetic = made.rows

    pairs, _ = read(tmp_path / "a", tree_of(tmp_path, VOC, ignore_below=0.5))

    expected = made.masks[synthetic].copy()
    expected[-2:] = 255
    assert (pairs[synthetic].mask == expected).all() and (pairs[real].mask == made.masks[real]).all()
    assert (decode_mask(pairs[synthetic].encoded_mask, "") == expected).all()
    found = dict(zip(pairs[synthetic].facts["class_ids"], pairs[synthetic].facts["class_pixels"], strict=True))
    assert found[255] == (expected == 255).sum() and sum(found.values()) == expected.size


def test_no_confidence_map_is_an_error(tmp_path):
    made = save_set(tmp_path / "a", VOC, confidence=None)

    with pytest.raises(DataError, match=f"pair {list(made.rows)[4]} has no confidence map.*--keep-confidence"):
        read(tmp_path / "a", tree_of(tmp_path, VOC, ignore_below=0.5))


def test_pictures_are_encoded_only_where_they_are_not_as_chosen():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    encoded = {format: encode_image(pixels, format) for format in SUFFIXES}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "bmp")

    assert [suffix_of(one) for one in (*encoded.values(), buffer.getvalue(), b"")] == [*SUFFIXES.values(), "", ""]
    for format, suffix in SUFFIXES.items():
        assert as_chosen(encoded[format], pixels, format) == (encoded[format], suffix)
        assert as_chosen(encoded[format], pixels, "keep") == (encoded[format], suffix)
    made, suffix = as_chosen(buffer.getvalue(), pixels, "keep")
    assert suffix == "png" and (decode_image(made, "") == pixels).all()
    assert as_chosen(encoded["png"], pixels, "jpeg") == (encoded["jpeg"], "jpg")


def test_all_jpeg_looks_at_the_chosen_rows(tmp_path):
    save_set(tmp_path / "a", VOC, 3, num_shards=1)
    (part,) = parts_of({"train": list_shards(str(tmp_path / "a"))})

    assert not all_jpeg(part)
    assert all_jpeg(replace(part, rows=np.array([1])))


def test_noisy_pixels_of_generated_pairs_are_ignored_in_every_format(tmp_path):
    made = save_set(tmp_path / "a", VOC)
    generated = list(made.rows)[-1]
    scores = save_noise(tmp_path / "scores", made.rows, made.masks)
    tree = tree_of(tmp_path, VOC, ignore_noisy=True)
    (first, *_) = parts = parts_of({"train": list_shards(str(tmp_path / "a"))}, scores=scores)

    pairs = {pair.name: pair for part in parts for pair in pairs_of(part, tree, {})}

    assert len(first.scores) == len(first.rows), "the shards of scores of these pairs alone"
    for name, pair in pairs.items():
        half = len(pair.mask) // 2
        expected = made.masks[name].copy()
        if name == generated:
            expected[:half] = 255
        assert (pair.mask == expected).all() and (decode_mask(pair.encoded_mask, "m") == expected).all()
        assert pair.facts["class_pixels"] == np.unique(expected, return_counts=True)[1].tolist()


def test_a_generated_pair_without_a_noise_map_is_told(tmp_path):
    made = save_set(tmp_path / "a", VOC)
    scores = save_noise(tmp_path / "scores", list(made.rows)[:-1], made.masks)
    parts = parts_of({"train": list_shards(str(tmp_path / "a"))}, scores=scores)

    with pytest.raises(DataError, match="no noise map, which ignore_noisy needs"):
        for part in parts:
            list(pairs_of(part, tree_of(tmp_path, VOC, ignore_noisy=True), {}))
    with pytest.raises(DataError, match="no scores of the kind judge"):
        parts_of({"train": list_shards(str(tmp_path / "a"))}, scores=str(tmp_path))
