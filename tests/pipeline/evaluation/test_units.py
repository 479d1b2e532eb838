"""What a test's pairs belong to."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.base.errors import DataError
from pipeline.evaluation.units import photograph_of, units_of
from pipeline.tables.rows import read_shards
from pipeline.tables.selection import write_selection
from pipeline.training.feed import Feed
from tests.tiny import save_pairs


def test_photograph_of_takes_the_whole_name_and_refuses_other_keys() -> None:
    assert photograph_of("000123-grass") == "grass"
    assert photograph_of("1234567-beach-malibu") == "beach-malibu"
    for key in ("123", "2008_000123", "grass", "000123-", "x-grass"):
        with pytest.raises(DataError, match="names no photograph"):
            photograph_of(key)


def test_pictures_are_units_where_masks_are_and_wanted(tmp_path):
    folder = str(save_pairs(tmp_path / "pairs", 6, num_labelled=4))
    rows = read_shards([folder]).to_pylist()
    labelled = [row["pair_id"] for row in rows if row["class_ids"]]
    assert units_of(folder, 3) == ("pictures", labelled[:3])
    assert units_of(folder, 3, labelled[1:]) == ("pictures", labelled[1:4])


def test_the_pictures_of_a_selection_are_those_that_it_keeps(tmp_path):
    folder = str(save_pairs(tmp_path / "pairs", 6, num_labelled=5))
    order = read_shards([folder])["pair_id"].to_pylist()
    reasons = pa.array([None, "dark", None, None, None, "dark"], pa.string())
    write_selection(str(tmp_path / "chosen"), folder, pa.table({"pair_id": sorted(order), "reason": reasons}))
    chosen = str(tmp_path / "chosen")
    taken = read_shards([chosen]).to_pylist()

    assert units_of(chosen, 9) == ("pictures", [row["pair_id"] for row in taken if row["class_ids"]])
    feed = Feed((chosen,), ("key", "mask"), lambda batch: {"key": batch["key"].astype(int)})
    keys = {row["pair_id"]: int(row["key"]) for row in taken}
    assert feed.head(9)["key"].tolist() == [keys[one] for one in units_of(chosen, 9)[1]]
