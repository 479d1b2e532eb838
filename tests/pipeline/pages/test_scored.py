"""The scores of pairs on the page, and copies beside their originals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from models.labels import GARMENTS
from pipeline.base.errors import DataError
from pipeline.pages.report_page import render
from pipeline.pages.scored import NUM_BARS, bars_of, scored
from pipeline.tables.rows import read_ids
from pipeline.tables.scores import copies_in, score_schema
from pipeline.tables.shards import write_table
from tests.tiny import save_pairs


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Twelve pairs, of which two are as near to real ones as copies are."""
    ids = read_ids(str(save_pairs(tmp_path / "pairs", 12))).sort().to_pylist()
    real = read_ids(str(save_pairs(tmp_path / "real", 12, "validation"))).sort().to_pylist()
    write_nearest(tmp_path, ids, real, [0.05, 0.01, *[0.9] * 10])
    (tmp_path / "scores/config.yaml").write_text(yaml.safe_dump({"job": "score", "real": [str(tmp_path / "real")]}))
    return tmp_path


def write_nearest(folder: Path, ids: list[str], real: list[str], ratios: list[float]) -> None:
    values = {"nearest_id": real, "nearest_ratio": ratios, "rarity": [None, *[0.5] * 11], "pair_id": ids}
    values["nearest_by"] = [json.dumps({"copy_ratio": 0.1})] * len(ids)
    schema = score_schema("nearest")
    rows = pa.table({name: values.get(name, [None] * len(ids)) for name in schema.names}).cast(schema)
    write_table(rows, f"{folder}/scores/nearest/shards")


def test_copies_stand_beside_their_originals_the_nearest_first(place):
    html = render("report", str(place / "pairs"), scores=str(place / "scores"))

    ids = read_ids(str(place / "pairs")).sort().to_pylist()
    assert re.findall(r'id="copy-(\w+)"', html) == [ids[1], ids[0]]
    assert "<strong>This set holds copies.</strong> 2 of 12 pairs are copies of real ones" in html
    section = html[html.index('id="copy-') : html.index('<section id="proof"')]
    assert section.count("<img") == 4 and section.count('alt="real: ') == 2 and "ratio 0.010" in section
    told = dict(re.findall(r'<th scope="row">(\w+)</th><td><svg.*?</svg></td>(.*?)</tr>', html))
    assert told["nearest_ratio"] == "<td>0.032</td><td>0.9</td><td>0.9</td><td>12</td>"
    assert told["rarity"] == "<td>0.5</td><td>0.5</td><td>0.5</td><td>11</td>", "null says nothing"
    assert 'id="scores"' not in render("report", str(place / "pairs"))


def test_how_scores_are_spread_is_drawn_without_what_lies_far_off():
    bars = bars_of(np.array([*np.linspace(0, 1, 198), 1e9, -1e9]))

    assert len(bars) == NUM_BARS and max(bars) == 1 and min(bars) > 0.5
    assert max(bars_of(np.zeros(3))) == 1 == sum(bars_of(np.zeros(3)))


def test_a_page_outlives_the_real_pictures(place):
    shutil.rmtree(place / "real")
    html = render("report", str(place / "pairs"), scores=str(place / "scores"))
    assert html.count("the real picture is not at hand") == 2 and 'alt="real: ' not in html


def test_what_chance_alone_makes_is_not_called_copies(place):
    ids = [f"{number:032x}" for number in range(5000)]
    shutil.rmtree(place / "scores/nearest")
    for near, some in ((6, False), (14, True)):  # five are to be expected
        rows = ["a"] * 5000
        values = {"pair_id": ids, "nearest_id": rows, "nearest_ratio": [0.05] * near + [0.9] * (5000 - near)}
        values["nearest_by"] = [json.dumps({"copy_ratio": 0.1})] * 5000
        schema = score_schema("nearest")
        table = pa.table({name: values.get(name, [None] * 5000) for name in schema.names}).cast(schema)
        write_table(table, f"{place}/scores/nearest/shards")
        found = copies_in(str(place / "scores"))
        assert found and found.some is some and str(found).startswith("no copies of real pairs") is not some
        shutil.rmtree(place / "scores/nearest")
    assert copies_in(str(place / "scores")) is None


def test_copies_are_counted_among_the_pairs_that_are_asked_for(place):
    ids = read_ids(str(place / "pairs")).sort().to_pylist()
    found = copies_in(str(place / "scores"), [*ids[1:5], "another"])
    assert found and found.rows["pair_id"].to_pylist() == [ids[1]] and found.num_pairs == 4


def test_scores_that_are_none_or_of_other_pairs_are_told(place, tmp_path):
    with pytest.raises(DataError, match="real: no scores; jobs.score makes them"):
        scored(str(place / "real"), str(place / "pairs"), GARMENTS)
    with pytest.raises(DataError, match="scores of other pairs than those of"):
        scored(str(place / "scores"), str(place / "real"), GARMENTS)
