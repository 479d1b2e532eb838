"""The page shows what a run made, stands alone, and lets no text of a stranger become HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.labels import LabelSpace
from pipeline.base.errors import DataError, ShardError
from pipeline.pages.report_page import render
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.runs import history
from pipeline.tables.conform import conform
from pipeline.tables.schema import ERROR, PAIR
from pipeline.tables.shards import write_table

NUM_PAIRS = 24
EVIL = '<script>alert("1")</script>'
BREAKOUT = 'x"onerror="alert(2)'
LABELS = LabelSpace.custom("tiny", (EVIL, BREAKOUT, "bag"), uncertain="ignore")
PROOF = {
    "test": {"folder": "runs/test", "pairs": 1234},
    "seeds": [0, 1, 2],
    "classes": list(LABELS.classes),
    "sets": [
        {
            "name": name,
            "folders": ["a"],
            "pairs": pairs,
            "steps": 1000,
            "miou": miou,
            "iou": {**{name: [one] * 3 for name, one in zip(LABELS.classes, ious, strict=True)}, "bag": [None] * 3},
        }
        for name, pairs, miou, ious in (
            ("real", 4096, [0.71, 0.70, 0.72], (0.91, 0.52, 0.53, 0.0)),
            (EVIL, 8192, [0.60, 0.66, 0.63], (0.81, 0.42, 0.43, 0.0)),
        )
    ],
    "agreement": {"judge": "real", "on": EVIL, "miou": 0.614, "pixel_accuracy": 0.931},
    "prompt_match": {BREAKOUT: 0.972},
}


def write(
    folder: Path, count: int = NUM_PAIRS, origin: str = "synthetic", size_px: int = 32, **columns: object
) -> Path:
    numbers = np.random.default_rng(count)
    masks = [numbers.integers(0, 4, (size_px, size_px)).astype(np.uint8) for _ in range(count)]
    images = [numbers.integers(0, 256, (size_px, size_px, 3)).astype(np.uint8) for _ in range(count)]
    areas = [np.unique(mask, return_counts=True) for mask in masks]
    rows = {
        "pair_id": [f"{row:032x}" for row in range(count)],
        "prompt": [f"{EVIL} a bag", f"{BREAKOUT} & a bag", *["a red bag"] * (count - 2)],
        "image": [encode_image(image) for image in images],
        "mask": [encode_mask(mask) for mask in masks],
        "height": [size_px] * count,
        "width": [size_px] * count,
        "class_ids": [ids.tolist() for ids, _ in areas],
        "class_pixels": [pixels.tolist() for _, pixels in areas],
        "origin": [origin] * count,
        "bundle": ["0123456789abcdef"] * count,
        "sampler": ['{"refine":{"min_area_px":20},"sampler":{"steps":20}}'] * count,
    }
    table = conform(pa.table({**rows, **columns}), PAIR)
    for start in range(0, count, 10):
        write_table(table.slice(start, 10), str(folder / "shards"))
    LABELS.save(folder / "label_space.json")
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = write(tmp_path / "synthetic")
    failed = pa.table({"pair_id": ["e1", "e2"], "reason": ["empty_prompt"] * 2})
    write_table(conform(failed, ERROR), str(folder / "errors"))
    (folder / "throughput.json").write_text('{"pairs_per_s": 3.456, "seconds": 3725.0, "samplers": 7}')
    (folder / "config.yaml").write_text("job: generate\nseed: 4711\nprompts: prompts/<b>.txt\n")
    (tmp_path / "proof").mkdir()
    (tmp_path / "proof" / "proof.json").write_text(json.dumps(PROOF))
    return folder


def page(made: Path, **values: Any) -> str:
    return render("report", str(made), **values)


def full(made: Path) -> str:
    real = write(made.parent / "real", 12, "real")
    return page(made, real=str(real), proof=str(made.parent / "proof"))


def shown(html: str) -> list[str]:
    return re.findall(r'id="pair-(\w+)"', html)


def test_the_page_stands_alone(made: Path) -> None:
    html = full(made)
    links = re.findall(r'(?:src|href)\s*=\s*["\']?([^"\'\s>]+)', html)
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert set(re.findall(r'href="#(\w+)"', html)) <= set(re.findall(r'id="(\w+)"', html))
    assert not re.search(r"url\(|@import|<script|<link", html)


@pytest.mark.parametrize(("asked", "number"), [(1, 1), (5, 5), (24, 24), (48, 24)])
def test_pairs_are_shown_evenly_in_order(made: Path, asked: int, number: int) -> None:
    html = page(made, num_shown=asked)
    ids = [int(pair_id, 16) for pair_id in shown(html)]
    assert len(ids) == len(set(ids)) == number
    assert html.count("<img ") == 3 * number
    assert ids == sorted(ids)
    assert asked != 5 or ids == [0, 6, 12, 17, 23]


def test_no_text_becomes_html(made: Path) -> None:
    html = full(made)
    assert "<script" not in html
    assert "prompts/&lt;b&gt;.txt" in html
    assert '"onerror' not in html
    assert not [tag for tag in re.findall(r"<[a-z][^>]*>", html) if re.search(r"\sonerror\s*=", tag)]
    for text in ("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;", "x&#34;onerror=&#34;alert(2)"):
        assert f"</i>{text}</span>" in html, "chip of a class"
        assert f"</i>{text}</div>" in html, "bar of a class"
        assert f'<th scope="row">{text}</th>' in html, "class or row of the proof"
        assert f'title="{text} ' in html, "prompt"
        assert f'alt="image: {text} ' in html, "prompt"


def test_numbers(made: Path) -> None:
    html = full(made)
    assert "24 pairs, 2 errors, 3.46 pairs/s, bundle <code>0123456789abcdef</code>" in html
    assert "1 h 02 min" in html
    assert re.search(r"empty_prompt</th><td>2</td>", html)
    first, second, of_class = re.findall(r"<tr><th scope=\"row\">(?:real|&lt;script).*?</tr>", html, re.DOTALL)
    assert re.findall(r"<td>(.*?)</td>", of_class) == ["52.0", "42.0"]
    for numbers, row in (
        (("4,096", "1,000", "71.0", "± 1.0", "1.00"), first),
        (("8,192", "63.0", "± 3.0", "0.89"), second),
    ):
        cells = re.sub(r"<[^>]+>", "|", row)
        assert all(number in cells for number in (*numbers, "–")), cells  # noqa: RUF001
    for number in ("1,234", "61.4 mIoU", "93.1%", "97.2%", "4711", "&#34;steps&#34;: 20"):
        assert number in html
    assert html.count("100.0%</b>") == 2 * len(LABELS.classes[1:]), "every class is in every random mask, in both sets"


def test_pictures_are_the_pixels(tmp_path: Path) -> None:
    """A half-strength mask lies over its classes, and the background stays clear."""
    import base64
    import io

    from PIL import Image

    image, mask = np.full((2, 2, 3), 100, np.uint8), np.array([[0, 3], [0, 255]], np.uint8)
    folder = write(tmp_path, 2, image=[encode_image(image)] * 2, mask=[encode_mask(mask)] * 2)
    encoded = re.findall(r"base64,([^\"]+)", page(folder, num_shown=1))
    pictures = [np.array(Image.open(io.BytesIO(base64.b64decode(one)))) for one in encoded]
    np.testing.assert_array_equal(pictures[0], image)
    np.testing.assert_array_equal(pictures[1], LABELS.colours(mask))
    assert pictures[2].tolist() == [[[100] * 3, [114, 114, 50]], [[100] * 3, [177] * 3]]


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    html = page(write(tmp_path, 2, size_px=400), num_shown=1)
    assert html.count("data:image/jpeg") == 2
    assert 'class="triple"' in html
    assert len(html) < 600_000


def test_what_is_missing_is_said(made: Path) -> None:
    (made / "throughput.json").unlink()
    (made / "config.yaml").unlink()
    html = page(made)
    assert "<table>" not in html
    assert "pairs/s" not in html
    for job in ("jobs.evaluate", "jobs.ingest", "jobs.generate"):
        assert html.count(f"<code>{job}</code>") == 1
    (made.parent / "proof" / "proof.json").unlink()
    assert "<code>jobs.evaluate</code>" in page(made, proof=str(made.parent / "proof"))


def test_mistakes_are_named(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match=r"no shards in .*empty"):
        page(tmp_path / "empty")
    with pytest.raises(ShardError, match=r"no shards in .*empty"):
        page(made, real=str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"no-such: no such folder; jobs\.evaluate"):
        page(made, proof=str(tmp_path / "no-such"))
    (made.parent / "proof" / "proof.json").write_text('{"sets": []}')
    with pytest.raises(DataError, match=r"proof\.json: not what jobs\.evaluate writes"):
        page(made, proof=str(made.parent / "proof"))
    with pytest.raises(DataError, match=r"no-such: no history\.jsonl, which trainings write"):
        page(made, trainings=[str(tmp_path / "no-such")])
    other = write(tmp_path / "other", 2, "real")
    LabelSpace.custom("other", ("a", "b", "c")).save(other / "label_space.json")
    with pytest.raises(DataError, match="different classes"):
        page(made, real=str(other))
    (other / "label_space.json").unlink()
    with pytest.raises(DataError, match=r"label_space\.json"):
        page(other)


def test_the_losses_of_trainings_are_drawn(made: Path) -> None:
    assert 'id="training"' not in page(made)
    assert "<svg" not in page(made)
    run = made.parent / EVIL.replace("/", "")
    for examples in (100, 200):
        history.append(run, {"examples": examples, "loss": 1 / examples, EVIL: 0.5})
    history.append(run, {"examples": 200, "validation": {"miou": 0.75}})
    html = page(made, trainings=[str(run)])
    assert html.count("<svg ") == 1 and '<a href="#training">' in html
    assert "examples seen" in html and 'loss <tspan class="last">0.005</tspan>' in html and "miou 0.75" in html
    assert "<script" not in html


def test_the_history_beside_the_weights_that_made_the_pairs_is_drawn_unasked(made: Path) -> None:
    run = made.parent / "joint"
    for folder in (run / "weights", run):
        (made / "config.yaml").write_text(f"bundle: {run / 'weights'}\n")
        for examples in (100, 200):
            history.append(folder, {"examples": examples, "loss": 0.5})
        html = page(made)
        assert html.count("<svg ") == 1 and "<h3>bundle joint</h3>" in html
        if folder == run:
            assert page(made, trainings=[str(run)]).count("<svg ") == 1, "not twice"
        (folder / history.FILE).unlink()
    assert "<svg" not in page(made)
    (made / "config.yaml").write_text("bundle: nowhere://x/y\n")
    assert "<svg" not in page(made)


def test_the_proof_that_a_bundle_brings_is_shown_unasked_and_apart(made: Path) -> None:
    assert "measured to be worth" not in page(made)
    bundle = made.parent / "weights"
    bundle.mkdir()
    (bundle / "proof.json").write_text(json.dumps({**PROOF, "warnings": ["of the bundle alone"]}))
    (made / "config.yaml").write_text(f"bundle: {bundle}\n")
    html = full(made)
    assert html.index("of the bundle alone") > html.index("measured to be worth") > html.index('id="proof"')
    assert html.count("<table>") == 2 and '<th scope="col"><abbr title="Pictures without masks' in html
    for broken in ("{", '{"format": 99}'):
        (bundle / "proof.json").write_text(broken)
        assert "measured to be worth" not in page(made), "nobody has asked for it"


@pytest.mark.parametrize("column", ["image", "mask"])
def test_an_undecodable_picture_names_its_row(tmp_path: Path, column: str) -> None:
    broken: dict[str, Any] = {column: [b"no picture"] * 3}
    folder = write(tmp_path, 3, **broken)
    with pytest.raises(DataError, match=rf"pair {0:032x}, {column}: not a picture"):
        page(folder)


def test_image_and_mask_of_other_sizes_or_ids_name_their_row(tmp_path: Path) -> None:
    odd = write(tmp_path / "odd", 2, mask=[encode_mask(np.zeros((4, 4), np.uint8))] * 2)
    with pytest.raises(DataError, match=rf"pair {0:032x}, mask: 4 x 4 pixels .* but its image has 32 x 32"):
        page(odd)
    unknown = write(tmp_path / "unknown", 2, mask=[encode_mask(np.full((32, 32), 9, np.uint8))] * 2)
    with pytest.raises(DataError, match=rf"pair {0:032x}, mask: the mask holds 9"):
        page(unknown)


def test_a_picture_without_a_mask_is_shown_alone(tmp_path: Path) -> None:
    bare = write(tmp_path / "bare", 2, mask=[b""] * 2, class_ids=[[]] * 2, class_pixels=[[]] * 2)
    html = page(bare)
    assert html.count("no mask") == 2 and "background only" not in html
    assert "2 pictures, 2 without masks" in html


def test_the_page_says_where_its_pairs_come_from(tmp_path: Path) -> None:
    for origin, words in (
        ("synthetic", "Pictures and masks made from text"),
        ("real", "Real pictures and their masks"),
        ("labelled", "Pictures that a teacher labelled"),
    ):
        html = page(write(tmp_path / origin, 2, origin))
        assert words in html and ("denoising" in html) == (origin == "synthetic")
        beside = page(tmp_path / origin, real=str(write(tmp_path / f"beside-{origin}", 2, "real")))
        called = {"synthetic": "synthetic", "real": "these", "labelled": "labelled"}[origin]
        assert f"in real and in {called} pairs" in beside, "real pairs are not called synthetic"
