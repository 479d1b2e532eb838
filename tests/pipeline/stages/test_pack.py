"""Packing encodes good rows, and empties bad ones."""

from __future__ import annotations

import numpy as np

from pipeline.pictures.codec import decode_image, decode_mask
from pipeline.stages.pack import pack_pairs, refine_and_pack

SIZE_PX = 16


def sampled():
    """A good row and a bad one, as SamplePairs gives them: a blob of class 3 with a speck of class 1 in its corner."""
    mask = np.zeros((2, SIZE_PX, SIZE_PX), np.uint8)
    mask[0, 4:12, 4:12] = 3
    mask[0, 0, 0] = 1
    return {
        "prompt": np.array(["a red bag", ""], object),
        "image": np.arange(2 * SIZE_PX**2 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, SIZE_PX, SIZE_PX, 3),
        "mask": mask,
        "confidence": np.full((2, SIZE_PX, SIZE_PX), 200, np.uint8),
        "error": np.array(["", "empty_prompt"], object),
    }


def test_packing_encodes_good_rows_and_empties_bad_ones():
    packed = pack_pairs(sampled(), keep_confidence=True)
    assert packed["image"][0].startswith(b"\x89PNG") and packed["mask"][0].startswith(b"\x89PNG")
    assert packed["image"][1] == packed["mask"][1] == packed["confidence"][1] == b""
    assert sum(packed["class_pixels"][0]) == SIZE_PX**2
    assert packed["height"].tolist() == [SIZE_PX] * 2


def test_what_is_packed_comes_back():
    batch = sampled()
    packed = pack_pairs(batch)

    np.testing.assert_array_equal(decode_image(packed["image"][0], "image"), batch["image"][0])
    np.testing.assert_array_equal(decode_mask(packed["mask"][0], "mask"), batch["mask"][0])
    assert (packed["class_ids"][0].tolist(), packed["class_pixels"][0].tolist()) == ([0, 1, 3], [191, 1, 64])
    assert "confidence" not in packed and packed["prompt"].tolist() == ["a red bag", ""]


def test_refined_masks_are_what_is_packed_and_counted():
    packed = refine_and_pack(
        sampled(),
        refine={"min_area_px": 4, "fill_holes_px": 0},
        ignore_index=255,
        image_format="png",
        keep_confidence=False,
        origin={"origin": "synthetic", "bundle": "0123"},
    )

    assert packed["class_ids"][0].tolist() == [0, 3], "the speck is gone"
    assert set(np.unique(decode_mask(packed["mask"][0], "mask"))) == {0, 3}
    assert packed["origin"].tolist() == ["synthetic"] * 2 and packed["bundle"].tolist() == ["0123"] * 2
