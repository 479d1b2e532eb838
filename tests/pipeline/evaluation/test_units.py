"""What a test's pairs belong to."""

from __future__ import annotations

import pytest

from pipeline.base.errors import DataError
from pipeline.evaluation.units import photograph_of, units_of
from pipeline.tables.rows import read_shards
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
