"""The page of a gallery, in a browser: from disk and from a plain server, and all that somebody does with it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from benchmarks.chromium import Page, browsing, installed
from benchmarks.gallery import SETTLED, fabricate, served
from pipeline.curate import CurateConfig, curate
from pipeline.pages.gallery_index import words_of
from pipeline.tables.rows import read_shards
from tests.pipeline.pages.gallery_sets import EVIL, SPACE, ids_of, make_gallery, save_scores, save_set

pytestmark = [
    pytest.mark.skipif(not installed(), reason="no Chromium is installed here"),
    pytest.mark.slow,
]
NUM = 40
CAPTIONS = """[...document.querySelectorAll('#tiles li')].sort((a, b) => a.place - b.place)
    .map((one) => one.querySelector('.caption').textContent)"""
PIXEL = """(() => {
    const mask = document.querySelector('#pair canvas.mask');
    return [mask.width, ...mask.getContext('2d').getImageData(3, 3, 1, 1).data];
})()"""
"""Width of the mask of a large pair, and red, green, blue and alpha of a place in it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A gallery of two runs of the same seeds, with scores and real pairs that are near."""
    folder = tmp_path_factory.mktemp("page")
    prompts = [f"a {('red', 'blue')[number % 2]} {('bag', 'dress', 'boot')[number % 3]}" for number in range(NUM)]
    prompts[0] = EVIL
    first = save_set(folder / "first", "a", NUM, prompt=prompts)
    save_set(folder / "second", "b", NUM - 10)
    real = save_set(folder / "real", "r", 3, origin=["real"] * 3, sampler=[None] * 3, seed=[None] * 3)
    save_scores(
        folder / "scores", "nearest", first, nearest_id=[real[number % 3] for number in range(NUM)],
        nearest_ratio=[0.25] * NUM, rarity=[(number * 7 % NUM) / NUM for number in range(NUM)],
    )  # fmt: skip
    (folder / "scores/config.yaml").write_text(json.dumps({"real": [str(folder / "real")]}))
    (folder / "first/config.yaml").write_text("bundle: bundles/my things\n")
    return make_gallery(
        folder, folder / "first", folder / "second", scores=(str(folder / "scores"),), title=EVIL, tile_px=16
    )


@pytest.fixture(scope="module")
def browser():
    with browsing() as page:
        yield page


@pytest.fixture
def page(browser, made) -> Page:
    browser.look(1280, 800)
    see(browser, made)
    browser.evaluate("localStorage.clear()")
    return browser


def see(page: Page, folder: Path | str, view: str = "") -> None:
    """Opens a gallery and waits until all is drawn."""
    page.open(f"{folder if '://' in str(folder) else f'file://{folder}'}/index.html{view}")
    page.wait_for(SETTLED)


def row_of(folder: Path, name: str = "first") -> list[dict]:
    return read_shards(
        [str(folder.parent.parent / name)], ["pair_id", "prompt", "class_ids", "confidence_mean"]
    ).to_pylist()


def status(page: Page) -> str:
    return page.evaluate("document.getElementById('status').textContent")


def trouble(page: Page) -> str:
    return page.evaluate("document.getElementById('trouble').textContent")


def test_it_opens_from_disk_and_from_a_plain_server_and_asks_nobody_else(page, made):
    with served(made) as server:
        for address in (f"file://{made}", server):
            see(page, address)
            assert status(page) == f"{2 * NUM - 10} pairs" and trouble(page) == "" and page.errors == []
            outside = [one for one in page.requests if not one.startswith((address, "blob:", "data:"))]
            assert page.requests and not outside, outside
            assert page.evaluate(
                "[...document.querySelectorAll('#tiles canvas.image')].every((one) => one.width === 16)"
            )


def test_what_stands_beside_a_filter_lies_on_no_other_one(page):
    outside = page.evaluate("""[...document.querySelectorAll('aside summary')].filter((one) => {
        const output = one.querySelector('output');
        if (output) output.textContent = "0.00811 to 0.0103 of what is known";
        return output && output.getBoundingClientRect().bottom > one.getBoundingClientRect().bottom + 1;
    }).map((one) => one.textContent)""")
    assert outside == []


def test_markup_in_prompts_and_titles_stays_text(page):
    assert page.evaluate("document.title").startswith(EVIL)
    captions = page.evaluate(CAPTIONS)
    assert EVIL in captions
    page.evaluate(
        "void [...document.querySelectorAll('.tile')].find((one) => one.textContent.includes('script')).click()"
    )
    page.wait_for("document.querySelector('#prompt')")
    assert page.evaluate("document.querySelector('#prompt').textContent") == EVIL
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('img, script:not([src])').length") == 0


@pytest.mark.parametrize(
    ("view", "wanted"),
    [
        ("q=red", lambda row: "red" in words_of(row["prompt"])),
        ("q=re%20bo", lambda row: row["prompt"].startswith("a red boot")),
        ("q=%22re%22", lambda row: False),
        ("q=blue%20-dress", lambda row: {"blue"} <= set(words_of(row["prompt"])) and "dress" not in row["prompt"]),
        ("class=2", lambda row: 2 in row["class_ids"]),
        ("class=1,2", lambda row: {1, 2} <= set(row["class_ids"])),
        ("class=1,2&how=any", lambda row: {1, 2} & set(row["class_ids"])),
        ("class=1,2&how=none", lambda row: not {1, 2} & set(row["class_ids"])),
        ("n.confidence_mean=0.25~0.5", lambda row: 0.25 <= row["confidence_mean"] <= 0.5),
        (
            "q=blue&class=1&n.confidence_mean=-Infinity~0.5",
            lambda row: "blue" in row["prompt"] and 1 in row["class_ids"] and row["confidence_mean"] <= 0.5,
        ),
        ("q=%F0%9F%8E%89", lambda row: False),  # signs that are no words
        ("q=-", lambda row: True),  # as one begins to type
    ],
)  # fmt: skip
def test_filters_keep_what_they_say(page, made, view, wanted):
    see(page, made, f"#run=first&{view}")
    expected = sum(bool(wanted(row)) for row in row_of(made))
    assert status(page).startswith(f"{expected} of "), status(page)
    assert page.evaluate("document.getElementById('empty').hidden") == (expected > 0)
    assert trouble(page) == ""


def test_what_an_address_asks_for_in_vain_is_said(page, made):
    see(page, made, "#run=first&c.sampler=nonsense&n.nothing=1~2&class=99&sort=-nothing&beside=gone")
    page.wait_for("!document.getElementById('trouble').hidden")
    assert status(page).startswith(f"{NUM} of ")
    assert trouble(page).endswith(
        "this gallery does not have: sort=-nothing, class=99, n.nothing, c.sampler, beside=gone"
    )


@pytest.mark.parametrize("view", ["rarity", "-rarity", "confidence_mean", "-confidence_mean", "prompt", "-prompt"])
def test_pairs_are_sorted_and_unknown_values_come_last(page, made, view):
    see(page, made, f"#tile=48&sort={view}")
    name = view.removeprefix("-")
    rows = read_shards(
        [str(made.parent.parent / one) for one in ("first", "second")], ["pair_id", "prompt", "confidence_mean"]
    )
    scores = read_shards([str(made.parent.parent / "scores/nearest")], ["pair_id", "rarity"]).to_pylist()
    known = {row["pair_id"]: row["rarity"] for row in scores}
    values = [{**row, "rarity": known.get(row["pair_id"])}[name] for row in rows.to_pylist()]
    some = sorted([one for one in values if one is not None], reverse=view.startswith("-"))
    shown = page.evaluate(CAPTIONS)
    if name == "prompt":
        assert shown == some[: len(shown)]
    elif name == "confidence_mean":
        values_shown = page.evaluate("[...document.querySelectorAll('.value')].map((one) => Number(one.textContent))")
        assert values_shown[:3] == pytest.approx(some[:3], abs=0.01)
    else:
        sign = -1 if view.startswith("-") else 1
        order = sorted(range(len(values)), key=lambda one: (values[one] is None, sign * (values[one] or 0)))
        assert shown == [rows["prompt"][one].as_py() for one in order][: len(shown)]


def test_a_histogram_is_dragged_over(page):
    left, top, width, height = page.evaluate("""(() => {
        const plots = [...document.querySelectorAll('.number')];
        const svg = plots.find((one) => one.textContent.includes('rarity')).querySelector('svg');
        svg.scrollIntoView();
        const box = svg.getBoundingClientRect();
        return [box.left, box.top, box.width, box.height];
    })()""")
    held = {"button": "left", "buttons": 1, "clickCount": 1, "y": top + height / 2}
    for kind, share in (("mousePressed", 0.01), ("mouseMoved", 0.3), ("mouseReleased", 0.49)):
        page.send("Input.dispatchMouseEvent", type=kind, x=left + share * width, **held)
    page.wait_for("location.hash.includes('n.rarity')")
    page.wait_for(SETTLED)
    shown = int(status(page).split()[0])
    assert NUM * 0.4 <= shown <= NUM * 0.6
    assert page.evaluate("[...document.querySelectorAll('rect.some')].some((one) => one.getAttribute('height') > 0)")
    page.evaluate("document.getElementById('clear').click()")
    page.wait_for(SETTLED)
    assert status(page) == f"{2 * NUM - 10} pairs" and page.evaluate("location.hash") == ""


def test_a_large_pair_tells_all_and_its_classes_go_on_and_off(page, made):
    number = 4
    see(page, made, f"#open={ids_of('a', NUM)[number]}")
    page.wait_for("document.querySelectorAll('#pair figure canvas.image').length === 2")
    table = dict(
        page.evaluate(
            "[...document.querySelectorAll('#pair tr')].map((one) => [...one.children].map((cell) => cell.textContent))"
        )
    )
    assert table["seed"] == str(2**62 + number), "not rounded"
    assert table["pair_id"] == ids_of("a", NUM)[number] and table["run"] == "first" and "nearest_ratio" in table
    command = page.evaluate("document.querySelector('.again code').textContent")
    assert re.fullmatch(
        rf"python -m jobs.regenerate --pairs \S*first --pair-id {table['pair_id']} --bundle '.*bundles/my things'",
        command,
    ), command
    assert "most like, ratio 0.25" in page.evaluate("document.querySelectorAll('figcaption')[1].textContent")
    assert page.evaluate(PIXEL) == [32, *SPACE.palette[2], 255]
    page.press("o")
    assert page.evaluate("getComputedStyle(document.querySelector('#pair canvas.mask')).opacity") == "0"
    page.press("o")
    assert page.evaluate("getComputedStyle(document.querySelector('#pair canvas.mask')).opacity") == "0.5"
    page.evaluate("document.querySelector('#pair .eye[data-class=\"2\"]').click()")
    assert page.evaluate(PIXEL)[4] == 0
    assert page.evaluate("location.hash").startswith("#off=2")


def test_two_runs_are_compared_by_seed(page, made):
    see(page, made, "#beside=second&sort=confidence_mean")
    assert status(page) == f"{NUM - 10} of {2 * NUM - 10} pairs", "those of which the other run has the seed"
    assert page.evaluate(
        "[...document.querySelectorAll('#tiles li')].every((one) => one.querySelectorAll('canvas.image').length === 2)"
    )
    page.evaluate("document.querySelector('.tile').click()")
    page.wait_for("document.querySelectorAll('#pair figure').length === 3")
    assert page.evaluate("document.querySelectorAll('figcaption')[1].textContent").startswith("second, the same seed")


def test_the_keyboard_alone_is_enough_and_marks_become_a_selection(page, made, tmp_path):
    see(page, made, "#run=first")
    page.evaluate("document.querySelector('.tile[tabindex=\"0\"]').focus()")
    for key in ("ArrowRight", "m", "ArrowDown", "End"):
        page.press(key)
    page.wait_for("document.activeElement.closest('li')?.place === 39")
    page.press("Enter")
    page.wait_for("document.getElementById('large').open && document.querySelector('#prompt')")
    page.press("ArrowLeft")
    page.wait_for(
        "location.hash.includes('open=') && document.getElementById('mark').getAttribute('aria-pressed') === 'false'"
    )
    page.press("m")
    page.wait_for("document.getElementById('mark').getAttribute('aria-pressed') === 'true'")
    page.press("Escape")
    page.wait_for("!document.getElementById('large').open")
    assert page.evaluate("document.getElementById('num-marks').textContent") == "2 marked"

    see(page, made, "#marked=1")
    page.wait_for("document.querySelectorAll('#tiles li.marked').length === 2")  # kept by the browser
    page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.evaluate("document.getElementById('save-marks').click()")
    while not list(tmp_path.glob("*.json")):
        time.sleep(0.05)
    pairs = str(made.parent.parent / "first")
    values = {"run": "chosen", "runs": str(tmp_path), "pairs": pairs, "marks": str(tmp_path / "marks.json")}
    curate(CurateConfig.model_validate(values))
    order = [row["pair_id"] for row in row_of(made)]
    assert set(read_shards([str(tmp_path / "chosen")], ["pair_id"])["pair_id"].to_pylist()) == {order[1], order[38]}


def test_narrow_screens_and_dark_mode(page, made):
    page.look(390, 800, dark=True, mobile=True)
    see(page, made)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.querySelector('aside')).display") == "none"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    page.evaluate("document.querySelector('.tile').click()")
    page.wait_for("document.querySelector('#pair figure canvas.image')")
    assert page.evaluate("document.getElementById('large').scrollWidth <= innerWidth")


def test_everything_that_is_pressed_has_a_name(page, made):
    page.send("Accessibility.enable")
    see(page, made)
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "checkbox", "radio", "slider", "searchbox", "combobox", "dialog", "listitem")
    seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in seen]
    assert len(named) > 40 and [role for role, name in named if not name and role != "listitem"] == []
    assert ("button", "a blue dress. <b>dress</b>") in named


def test_what_is_missing_is_said(page, made):
    (index,) = made.glob("index-*")
    rows = index / "rows/0.js"
    rows.rename(index / "rows/kept")
    try:
        page.open(f"file://{made}/index.html")
        page.wait_for("!document.getElementById('trouble').hidden")
        assert re.fullmatch(r"index-\w+/rows/0.js cannot be read: reload the page.*", trouble(page))
    finally:
        (index / "rows/kept").rename(rows)
    see(page, made, "#open=none")
    page.wait_for("!document.getElementById('trouble').hidden")
    assert trouble(page) == "this gallery has no pair none"


def test_ten_thousand_pairs_show_in_two_seconds_and_hold_few_elements(browser, tmp_path):
    pairs, scores = fabricate(tmp_path / "pairs", 10_000, 32)
    folder = make_gallery(tmp_path, pairs, scores=(str(scores),), large_pairs=0, tile_px=16)
    browser.look(1280, 800)
    see(browser, folder)
    browser.wait_for("performance.getEntriesByName('tiles').length")  # set a frame after all is drawn
    assert browser.evaluate("performance.getEntriesByName('tiles')[0].startTime") < 2000
    see(browser, folder, "#sort=-sharpness")
    assert browser.evaluate("document.querySelectorAll('#tiles li').length") < 100
    browser.evaluate("document.getElementById('grid').scrollTop = 1e9")
    browser.wait_for("[...document.querySelectorAll('#tiles li')].some((one) => one.place === 9999)")
    browser.wait_for(SETTLED)
    assert trouble(browser) == "" and browser.errors == []
