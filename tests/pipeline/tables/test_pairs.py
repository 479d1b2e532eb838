"""A row becomes a picture and a mask that fit each other, or one sentence says why not."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.labels import GARMENTS
from pipeline.base.errors import DataError, MaskError
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables.conform import object_column
from pipeline.tables.pairs import decode_pairs, unpack_confidence, unpack_pair
from tests.tiny import save_pairs

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
MASK = np.zeros((4, 6), np.uint8)
MASK[1:3, 1:3] = 3
MASK[0, :2] = GARMENTS.ignore_index


def test_pictures_of_several_sizes_are_refused(tmp_path):
    folders = [save_pairs(tmp_path / str(size), 2, size_px=size, num_shards=1) for size in (32, 48)]
    one, other = (pq.read_table(folder / "shards", columns=["image"])["image"].to_pylist() for folder in folders)
    with pytest.raises(DataError, match="pictures of one size"):
        decode_pairs({"image": np.array([one[0], other[0]], object)})


def row(**changes):
    return {"image": encode_image(IMAGE), "mask": {"bytes": encode_mask(MASK), "path": None}, **changes}


def test_a_row_gives_back_what_was_packed_with_the_areas_of_its_classes():
    pair = unpack_pair(row(), GARMENTS, "here")
    np.testing.assert_array_equal(pair.image, IMAGE)
    np.testing.assert_array_equal(pair.mask, MASK)
    assert (pair.class_ids.tolist(), pair.class_pixels.tolist()) == ([0, 3, 255], [18, 4, 2])


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"mask": encode_mask(MASK.T)}, MaskError, "here, mask: 6 x 4 pixels .* but its image has 4 x 6"),
        ({"mask": encode_mask(MASK + 6)}, MaskError, r"here, mask: the mask holds 9; label space 'garments'"),
        ({"image": None}, DataError, "here, image: "),
        ({"image": {"bytes": None, "path": "a.png"}}, DataError, "here, image: "),
        ({"mask": b""}, DataError, "here, mask: "),
        ({"image": b"\x89PNG"}, DataError, "here, image: not a picture"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_place(changes, error, told):
    with pytest.raises(error, match=told):
        unpack_pair(row(**changes), GARMENTS, "here")


def test_a_column_that_is_not_there_is_a_missing_picture():
    with pytest.raises(DataError, match="here, mask: "):
        unpack_pair({"image": encode_image(IMAGE)}, GARMENTS, "here")


def test_without_a_label_space_any_value_passes():
    assert unpack_pair(row(mask=encode_mask(MASK + 6)), None, "here").class_ids.tolist() == [5, 6, 9]


def test_confidence_is_as_large_as_its_image_or_said_to_be_missing():
    confidence = np.arange(24, dtype=np.uint8).reshape(4, 6)
    found = unpack_confidence({"confidence": {"bytes": encode_mask(confidence)}}, IMAGE, "here")
    np.testing.assert_array_equal(found, confidence)
    with pytest.raises(MaskError, match="here, confidence: 6 x 4 pixels"):
        unpack_confidence({"confidence": encode_mask(confidence.T)}, IMAGE, "here")
    for missing in ({}, {"confidence": None}):
        with pytest.raises(DataError, match="here: has no confidence map.*--keep-confidence True"):
            unpack_confidence(missing, IMAGE, "here")


def test_a_batch_is_decoded_and_other_columns_are_dropped():
    batch = {
        "pair_id": object_column(["a", "b"]),
        "image": object_column([encode_image(IMAGE), {"bytes": encode_image(255 - IMAGE)}]),
        "mask": object_column([encode_mask(MASK)] * 2),
    }
    decoded = decode_pairs(batch)
    assert sorted(decoded) == ["image", "mask"]
    np.testing.assert_array_equal(decoded["image"], [IMAGE, 255 - IMAGE])
    np.testing.assert_array_equal(decoded["mask"], [MASK] * 2)

    batch["mask"][1] = b"broken"
    with pytest.raises(DataError, match="pair b, mask: "):
        decode_pairs(batch)


def test_the_middle_of_pictures_of_any_size_makes_one_batch():
    images = [np.zeros((4, 6, 3), np.uint8), np.zeros((8, 4, 3), np.uint8)]
    masks = [np.zeros((4, 6), np.uint8), np.zeros((8, 4), np.uint8)]
    for one in (images[0][:, 1:5], masks[0][:, 1:5], images[1][2:6], masks[1][2:6]):
        one += 7

    batch = {"image": object_column(map(encode_image, images)), "mask": object_column(map(encode_mask, masks))}
    decoded = decode_pairs(batch, size_px=4)

    assert decoded["image"].shape == (2, 4, 4, 3) and decoded["mask"].shape == (2, 4, 4)
    assert (decoded["image"] == 7).all() and (decoded["mask"] == 7).all()
