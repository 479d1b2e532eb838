"""Small pictures and masks in sheets, some pairs as they are, and what cannot be shown named."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.labels import LabelSpace
from pipeline.pages.gallery_files import unscript
from pipeline.pages.gallery_pictures import SHEET, Part, Sizes, bytes_of_pair, make_part, read_record
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables.shards import list_shards, shard_bytes
from tests.pipeline.pages.gallery_sets import SPACE, picture_of, save_set

SIZES = Sizes(16, 20)


@pytest.fixture
def part(tmp_path) -> Part:
    num = SHEET + 6
    images = [encode_image(picture_of(number)[0]) for number in range(num)]
    masks = [encode_mask(picture_of(number)[1]) for number in range(num)]
    images[2], masks[3] = b"no picture", b""
    image, mask = picture_of(4, (8, 8))
    images[4], masks[4] = encode_image(image), encode_mask(mask)
    masks[5] = encode_mask(np.zeros((3, 3), np.uint8))
    save_set(tmp_path / "run", "a", num, num_shards=1, image=images, mask=masks)
    (shard,) = list_shards(str(tmp_path / "run"))
    large = np.zeros(num, bool)
    large[[0, 4, SHEET + 5]] = True
    return Part(shard, shard_bytes(shard), np.arange(num), large, 0, "content")


def read(folder, key) -> tuple[dict, bytes]:
    found = unscript((folder / f"{key}.js").read_bytes())
    length = int(np.frombuffer(found[:4], "<u4")[0])
    return json.loads(found[4 : 4 + length]), found[4 + length :]


def test_sheets_hold_pictures_and_the_ids_of_their_masks(tmp_path, part):
    num, size = make_part(part, str(tmp_path), SIZES, SPACE)
    folder = tmp_path / "pictures" / part.name(SIZES)
    record = read_record(str(folder))
    assert record and (num, size) == (SHEET + 6, record["bytes"])
    assert size == sum(path.stat().st_size for path in folder.iterdir() if path.name != "part.json")
    ids = pq.read_table(part.shard, columns=["pair_id"])["pair_id"].to_pylist()
    assert record["damaged"].keys() == {ids[2], ids[5]}
    assert "not a picture" in record["damaged"][ids[2]] and "3 x 3 pixels" in record["damaged"][ids[5]]

    header, masks = read(folder, "0")
    assert header["cell"] == 16 and header["bits"] == 8 and len(header["sizes"]) == SHEET
    assert header["sizes"][:6] == [[16, 12, 1, 1], [16, 12, 1, 0], [0] * 4, [16, 12, 0, 0], [8, 8, 1, 1], [0] * 4]
    assert len(masks) == sum(width * height * masked for width, height, masked, _ in header["sizes"])
    first = np.frombuffer(masks[: 16 * 12], np.uint8).reshape(12, 16)
    np.testing.assert_array_equal(first, picture_of(0)[1][1::2, 1::2], "ids are never mixed")
    with Image.open(folder / "0.webp") as sheet:
        assert sheet.size == (8 * 16, 8 * 16)
        assert np.abs(np.array(sheet, int)[4, 16 + 8] - (5, 90, 200)).max() < 12, "the second, in its cell"
    assert len(read(folder, "1")[0]["sizes"]) == 6


def test_large_pairs_are_kept_byte_by_byte_where_they_are_small_enough(tmp_path, part):
    make_part(part, str(tmp_path), SIZES, SPACE)
    folder = tmp_path / "pictures" / part.name(SIZES)
    header, blobs = read(folder, "large-0")
    assert header["pairs"].keys() == {"0", "4"} and sorted(path.name for path in folder.glob("large-*")) == [
        "large-0.js", f"large-{(SHEET + 5) // 16}.js",
    ]  # fmt: skip
    shrunk, kept = header["pairs"]["0"], header["pairs"]["4"]
    assert (shrunk["type"], shrunk["width"], shrunk["height"]) == ("image/webp", 20, 15)
    with Image.open(io.BytesIO(blobs[: shrunk["bytes"]])) as image:
        assert image.size == (20, 15)
    rest = blobs[shrunk["bytes"] + 20 * 15 :]
    assert kept["type"] == "image/png" and rest[: kept["bytes"]] == encode_image(picture_of(4, (8, 8))[0])
    assert rest[kept["bytes"] :] == picture_of(4, (8, 8))[1].tobytes()


def test_ids_of_many_classes_take_two_bytes(tmp_path, part):
    many = LabelSpace.custom("many", tuple(map(str, range(300))))
    make_part(part, str(tmp_path), SIZES, many)
    header, masks = read(tmp_path / "pictures" / part.name(SIZES), "0")
    assert header["bits"] == 16 and np.frombuffer(masks, "<u2")[: 16 * 12].max() == SPACE.ignore_index


def test_a_part_is_named_by_what_is_in_it(part):
    other = [
        replace(part, places=part.places[1:], large=part.large[1:]),
        replace(part, large=~part.large),
        replace(part, shard_bytes=part.shard_bytes + 1),
    ]
    names = {part.name(SIZES), part.name(Sizes(32, 20)), part.name(Sizes(16, 21)), *(one.name(SIZES) for one in other)}
    assert len(names) == 6 and part.name(SIZES) == replace(part, first=5).name(SIZES)


def test_what_a_pair_takes_is_known_before(tmp_path, part):
    small, large = bytes_of_pair(part, SIZES, SPACE)
    assert 10 < small < 100 and 50 < large < 500
    assert not list(tmp_path.glob("pictures"))
    assert read_record(str(tmp_path)) is None
