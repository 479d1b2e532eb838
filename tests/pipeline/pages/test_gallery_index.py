"""What the page reads to sort, filter and find pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from pipeline.base.errors import Stopped
from pipeline.pages.gallery_index import BLOCK, Index, hashes, words_of
from pipeline.pages.gallery_rows import read_rows
from tests.pipeline.pages.gallery_sets import EVIL, SPACE, content, save_scores, save_set

NUM = BLOCK + 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder, what the page is told, and the rows."""
    folder = tmp_path_factory.mktemp("index")
    prompts: list[str | None] = [f"a {('red', 'blue')[number % 2]} bag {number % 7}" for number in range(NUM)]
    prompts[3], prompts[5] = EVIL, None
    ids = save_set(folder / "a", "a", NUM, prompt=prompts, seed=[2**62 + number for number in range(NUM)])
    save_set(folder / "b", "b", 4, seed=[2**62 + 1, 2**62 + 3, None, 5], sampler=['{"steps":30}'] * 4)
    sharpness = [float(number) for number in range(NUM)]
    sharpness[0] = 1e6
    save_scores(
        folder / "scores", "plain", ids, sharpness=sharpness, blocked=[number == 7 for number in range(NUM)],
        regions=[number % 3 for number in range(NUM)], picture_hash=[2**60 + number for number in range(NUM)],
    )  # fmt: skip
    rows = read_rows([str(folder / "a"), str(folder / "b")], [str(folder / "scores")], SPACE)
    index = Index(str(folder), "index-1", rows, SPACE)
    index.write({"title": EVIL})
    files = [path for path in (folder / "index-1").rglob("*") if path.is_file()]
    assert index.size == sum(path.stat().st_size for path in files)
    return folder, json.loads(content(folder, "meta")), rows.table.to_pylist()


def read(folder, file, kind):
    return np.frombuffer(content(folder, file), kind)


def test_numbers_are_columns_with_their_histogram(made):
    folder, meta, rows = made
    numbers = {one["name"]: one for one in meta["numbers"]}
    assert meta["num"] == NUM + 4 and meta["title"] == EVIL
    sharpness = numbers["sharpness"]
    expected = [np.nan if row["sharpness"] is None else row["sharpness"] for row in rows]
    np.testing.assert_array_equal(read(folder, sharpness["file"], "<f4"), np.array(expected, np.float32))
    assert sum(sharpness["counts"]) == sharpness["known"] == NUM and sharpness["most"] == 1e6
    assert sharpness["high"] < NUM, "one value far away does not flatten the others"
    assert sharpness["better"] == 1 and sharpness["score"] and not numbers["confidence_mean"]["score"]
    regions = numbers["regions"]
    assert regions["whole"] and (regions["low"], regions["high"]) == (-0.5, 2.5) and len(regions["counts"]) == 3
    assert numbers["blocked"]["counts"] == [NUM - 1, 1]
    assert numbers.keys().isdisjoint({"seed", "picture_hash", "height", "num_classes"}), (
        "what is the same, or is a name"
    )


def test_integers_that_float32_would_round_are_no_numbers_of_the_page(tmp_path):
    seeds = [2**24 + 1, 2**24, 5, 6, *range(8)]
    save_set(tmp_path / "a", "a", len(seeds), seed=seeds)
    for largest, is_there in ((2**24 + 1, False), (2**24, True)):
        rows = read_rows([str(tmp_path / "a")], [], SPACE)
        rows = replace(rows, table=rows.table.filter(pc.less_equal(rows.table["seed"], largest)))
        Index(str(tmp_path / f"{largest}"), "index-1", rows, SPACE).write({})
        meta = json.loads(content(tmp_path / f"{largest}", "meta"))
        assert ("seed" in {one["name"] for one in meta["numbers"]}) == is_there


def test_classes_are_bits_and_categories_codes(made):
    folder, meta, rows = made
    for one in meta["classes"]:
        has = np.unpackbits(read(folder, one["file"], np.uint8), bitorder="little")[: len(rows)]
        assert has.tolist() == [one["id"] in row["class_ids"] for row in rows] and has.sum() == one["pairs"]
    found = {one["name"]: one for one in meta["categories"]}
    sampler = found["sampler"]
    assert [sampler["values"][code] for code in read(folder, sampler["file"], "<u2")] == [
        row["sampler"] for row in rows
    ]
    assert sampler["counts"] == [NUM, 4] and found["origin"] == {
        "name": "origin", "values": ["synthetic"], "counts": [NUM + 4], "file": "",
    }  # fmt: skip


def test_words_lead_to_texts_and_texts_to_pairs(made):
    folder, meta, rows = made
    codes = read(folder, meta["prompts"]["file"], "<u4")
    texts = sorted({row["prompt"] or "" for row in rows}, key=str.encode)
    assert [texts[code] for code in codes] == [row["prompt"] or "" for row in rows] and meta["prompts"]["num"] == len(
        texts
    )
    known = json.loads(content(folder, "words/all"))
    assert known["words"] == sorted(known["words"]) and {"red", "blue", "bag", "6", "onerror"} <= set(known["words"])
    steps = read(folder, "words/0", "<u4")
    assert known["starts"] == [0] and len(steps) == sum(known["counts"])
    where = known["words"].index("red")
    first = sum(known["counts"][:where])
    found = np.cumsum(steps[first : first + known["counts"][where]])
    assert [texts[code] for code in found] == [text for text in texts if "red" in text.split()]


def test_rows_hold_all_columns_and_large_numbers_as_text(made):
    folder, meta, rows = made
    blocks = [json.loads(content(folder, f"rows/{number}")) for number in range(2)]
    assert len(blocks[0]["pair_id"]) == BLOCK and len(blocks[1]["pair_id"]) == 14
    for number, row in enumerate(rows):
        block = blocks[number // BLOCK]
        assert block["prompt"][number % BLOCK] == row["prompt"]
        assert block["seed"][number % BLOCK] == (None if row["seed"] is None else str(row["seed"]))
        assert block["class_pixels"][number % BLOCK] == row["class_pixels"]
    assert isinstance(blocks[0]["picture_hash"][0], str) and blocks[0]["confidence_mean"][1] == pytest.approx(1 / NUM)
    assert meta["constants"] == {"origin": "synthetic", "bundle": "bundle"}
    assert "captions" not in blocks[0], "null everywhere"


def test_pairs_of_one_seed_share_a_number_and_ids_are_found_by_hashes(made):
    folder, meta, rows = made
    match = read(folder, meta["match"], "<u4")
    where = {(row["_run"], row["seed"]): place for place, row in enumerate(rows)}
    assert match[where[0, 2**62 + 1]] == match[where[1, 2**62 + 1]] != match[where[0, 2**62]]
    assert match[where[1, None]] == 2**32 - 1
    np.testing.assert_array_equal(read(folder, meta["ids"], "<u4"), hashes([row["pair_id"] for row in rows]))
    assert hashes(["", "a", "foobar", "ä"]).tolist() == [0x811C9DC5, 0xE40C292C, 0xBF9CF968, hash_of("ä")]


def test_real_pairs_are_matched_by_picture_and_else_by_name_and_split(tmp_path):
    real: dict[str, Any] = {"origin": ["real"] * 4, "seed": [None] * 4, "dataset": ["pets"] * 4, "key": list("0123")}

    def save(name: str, split: str, digests: list[str | None]) -> None:
        save_set(tmp_path / name, name, 4, num_shards=1, split=[split] * 4, image_digest=digests, **real)

    save("train", "train", ["aa", "bb", None, None])
    save("validation", "validation", ["cc", "bb", None, None])
    save("labels", "train", [None] * 4)
    rows = read_rows([str(tmp_path / name) for name in ("train", "validation", "labels")], [], SPACE)
    Index(str(tmp_path), "index-1", rows, SPACE).write({})
    match = read(tmp_path, json.loads(content(tmp_path, "meta"))["match"], "<u4").reshape(3, 4).tolist()
    train, validation, labels = match
    assert train == labels, "of earlier releases, without digests"
    assert [train[number] == validation[number] for number in range(4)] == [False, True, False, False]


@pytest.mark.parametrize("value", [0.5, 0.0, 3.0, -1e20])
def test_scores_that_are_the_same_for_all_pairs_are_shown(tmp_path, value):
    ids = save_set(tmp_path / "a", "a", 6)
    save_scores(tmp_path / "scores", "plain", ids[1:], sharpness=[value] * 5)
    rows = read_rows([str(tmp_path / "a")], [str(tmp_path / "scores")], SPACE)
    Index(str(tmp_path), "index-1", rows, SPACE).write({})
    (one,) = [one for one in json.loads(content(tmp_path, "meta"))["numbers"] if one["name"] == "sharpness"]
    assert one["counts"] == [5] and one["known"] == 5 and one["low"] < one["least"] == one["most"] < one["high"]


def hash_of(text: str) -> int:
    found = 2166136261
    for byte in text.encode():
        found = (found ^ byte) * 16777619 % 2**32
    return found


def test_words_of_texts():
    assert words_of("A Red-bag, 3x!") == ["a", "red", "bag", "3x"]
    assert words_of("ein grüner Schuh") == words_of("EIN GRU\u0308NER SCHUH") == ["ein", "grüner", "schuh"]
    assert words_of("赤い鞄 a") == ["赤", "い", "鞄", "a"]


def test_it_can_be_stopped(tmp_path):
    save_set(tmp_path / "a", "a", 3)
    rows = read_rows([str(tmp_path / "a")], (), SPACE)
    with pytest.raises(Stopped, match="stopped: all pictures are in .*, but not the index"):
        Index(str(tmp_path), "index-1", rows, SPACE, lambda: True).write({})
    assert not (tmp_path / "index-1").exists()
