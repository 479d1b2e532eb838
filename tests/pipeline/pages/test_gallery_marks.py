"""Marks of a gallery outlive tabs beside it, a gallery that is made anew, and files that cannot be read; and smaller
things that somebody does with a gallery."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chromium import Page, browsing, installed
from benchmarks.gallery import SETTLED
from tests.pipeline.pages.gallery_sets import make_gallery, save_scores, save_set
from tests.pipeline.pages.test_gallery_page import CAPTIONS, see, status, trouble

pytestmark = [
    pytest.mark.skipif(not installed(), reason="no Chromium is installed here"),
    pytest.mark.slow,
]
NUM = 600
NUM_MARKS = "document.getElementById('num-marks').textContent"


@pytest.fixture(scope="module")
def browser():
    with browsing() as page:
        page.look(1280, 800)
        yield page


@pytest.fixture(scope="module")
def ids() -> list[str]:
    return []


@pytest.fixture(scope="module")
def made(tmp_path_factory, ids) -> Path:
    folder = tmp_path_factory.mktemp("marks")
    prompts = [f"n{number:03}" if number else None for number in range(NUM)]
    ids += save_set(folder / "a", "a", NUM, num_shards=1, prompt=prompts)
    return make_gallery(folder, folder / "a", tile_px=16, large_pairs=0)


@pytest.fixture
def page(browser, made) -> Page:
    see(browser, made)
    browser.evaluate("localStorage.clear()")
    see(browser, made)
    return browser


def mark(page: Page, place: int) -> None:
    """As somebody does by keys; what is written is not waited for."""
    tiles = "[...document.querySelectorAll('#tiles li')]"
    page.evaluate(f"{tiles}.find((one) => one.place === {place}).firstChild.focus()")
    page.press("m")


def kept(page: Page) -> dict[str, Any]:
    (text,) = page.evaluate("Object.values(localStorage)")
    return json.loads(text)


def keep(page: Page, index: str, pairs: list[tuple[int, str]]) -> None:
    """As an earlier gallery, or another tab, has left them."""
    text = json.dumps(json.dumps({"index": index, "pairs": pairs}))
    page.evaluate(f"localStorage.setItem(Object.keys(localStorage)[0], {text})")


def kept_ids(page: Page) -> set[str]:
    return {one for _, one in kept(page)["pairs"]}


def test_a_mark_keeps_those_of_an_earlier_gallery_and_ids_that_are_not_in_this_one(page, made, ids):
    mark(page, 0)
    page.wait_for("localStorage.length")
    keep(page, "index-before", [(5, one) for one in [*ids[NUM // 2 :], "gone"]])
    page.open(f"file://{made}/index.html")
    page.wait_for("document.querySelector('#tiles button')")
    mark(page, 1)  # before the stored ones are read
    page.wait_for(f"{NUM_MARKS} === '{NUM // 2 + 1} marked, 1 not in this gallery'")
    assert kept_ids(page) == {ids[1], *ids[NUM // 2 :], "gone"}
    assert trouble(page).startswith("1 marked pairs are not in this gallery")
    see(page, made)
    page.wait_for(f"{NUM_MARKS}.includes('not in this gallery')")
    assert len(kept_ids(page)) == NUM // 2 + 2 and trouble(page) == ""


def test_marks_that_cannot_be_read_are_not_destroyed(page, made, ids):
    mark(page, 0)
    page.wait_for("localStorage.length")
    keep(page, "index-before", [(0, one) for one in ids[-20:]])
    (rows,) = made.glob("index-*/rows")
    shutil.move(rows / "2.js", made / "kept.js")
    try:
        page.open(f"file://{made}/index.html")
        page.wait_for("!document.getElementById('trouble').hidden")
        mark(page, 1)
        page.wait_for("document.getElementById('trouble').textContent.includes('cannot be read')")
        assert kept_ids(page) == set(ids[-20:])
    finally:
        shutil.move(made / "kept.js", rows / "2.js")
    mark(page, 1)
    page.wait_for(f"{NUM_MARKS} === '21 marked'")
    assert kept_ids(page) == {ids[1], *ids[-20:]}


def test_two_tabs_keep_the_marks_of_each_other(page, made, ids):
    mark(page, 0)
    page.wait_for(f"{NUM_MARKS} === '1 marked'")
    index = kept(page)["index"]
    keep(page, index, [(0, ids[0]), (2, ids[2]), (5, ids[5])])
    mark(page, 1)
    page.wait_for(f"{NUM_MARKS} === '4 marked'")
    assert kept_ids(page) == {ids[number] for number in (0, 1, 2, 5)}
    keep(page, index, [(2, ids[2])])
    page.evaluate("dispatchEvent(new StorageEvent('storage', {key: Object.keys(localStorage)[0]}))")
    page.wait_for(f"{NUM_MARKS} === '1 marked' && document.querySelectorAll('#tiles li.marked').length === 1")
    mark(page, 2)
    page.wait_for(f"{NUM_MARKS} === '0 marked'")
    assert kept(page)["pairs"] == []


def test_m_marks_nothing_where_no_pair_is_chosen(page, made):
    page.evaluate("document.querySelector('input[name=class]').focus()")
    page.press("m")
    mark(page, 3)
    page.wait_for(f"{NUM_MARKS} === '1 marked'")
    assert [number for number, _ in kept(page)["pairs"]] == [3]


def test_tiles_of_another_size_begin_at_the_same_pair(page, made):
    page.evaluate("document.getElementById('grid').scrollTop = 3000")
    first = "Math.min(...[...document.querySelectorAll('#tiles li')].map((one) => one.place))"
    page.wait_for(f"{first} > 0")
    page.wait_for(SETTLED)
    before = page.evaluate(first)
    for size in (160, 88, 240, 144):
        page.evaluate(f"document.getElementById('size').value = {size}")
        page.evaluate("document.getElementById('size').dispatchEvent(new Event('input'))")
        page.wait_for(SETTLED)
        assert abs(page.evaluate(first) - before) < 30, "a row above what is seen is there too"
    assert 0 <= before - page.evaluate(first) < 10 and page.evaluate("location.hash") == ""


def test_pairs_without_a_prompt_come_last_by_prompt(page, made):
    for view, first in (("prompt", "n001"), ("-prompt", f"n{NUM - 1}")):
        see(page, made, f"#sort={view}")
        assert page.evaluate(CAPTIONS)[0] == first
        page.evaluate("document.getElementById('grid').scrollTop = 1e9")
        page.wait_for(f"[...document.querySelectorAll('#tiles li')].some((one) => one.place === {NUM - 1})")
        page.wait_for(SETTLED)
        assert page.evaluate(CAPTIONS)[-1] == ""


def test_real_pictures_are_compared_as_the_same_picture_and_a_score_that_never_differs_is_shown(browser, tmp_path):
    real: dict[str, Any] = {"origin": ["real"] * 6, "seed": [None] * 6, "sampler": [None] * 6, "dataset": ["pets"] * 6}
    real["key"] = [str(number) for number in range(6)]
    train = save_set(tmp_path / "train", "t", 6, split=["train"] * 6, **real)
    save_set(tmp_path / "teacher", "u", 6, split=["train"] * 6, **real)
    save_set(tmp_path / "validation", "v", 6, split=["validation"] * 6, **real)
    save_scores(tmp_path / "scores", "plain", train, sharpness=[0.5] * 6)
    runs = [tmp_path / name for name in ("train", "teacher", "validation")]
    folder = make_gallery(tmp_path, *runs, scores=(str(tmp_path / "scores"),), tile_px=16)
    see(browser, folder, "#run=train&beside=validation")
    assert status(browser).startswith("0 of ")
    see(browser, folder, "#run=train&beside=teacher&sort=sharpness&n.sharpness=0.4~0.6")
    assert status(browser).startswith("6 of ") and trouble(browser) == "" and browser.errors == []
    assert "sharpness 0.5 to 0.5" in browser.evaluate("document.getElementById('filters').textContent")
    browser.evaluate("document.querySelector('.tile').click()")
    browser.wait_for("document.querySelectorAll('#pair figure').length === 2")
    assert browser.evaluate("document.querySelectorAll('figcaption')[1].textContent").startswith(
        "teacher, the same picture"
    )
