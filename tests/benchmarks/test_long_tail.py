"""`benchmarks.long_tail`: a view in which classes are as rare as was asked, whatever slice of it is taken."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import long_tail
from models.labels import LabelSpace
from pipeline.tables.label_space import LABELS, load_labels
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import write_table
from pipeline.training.order import ids_of

CLASSES = ("background", "shirt", "dress", "boot")


def test_chances_fall_evenly_from_one_to_the_rarest():
    np.testing.assert_allclose(long_tail.chances(4, 64), [1, 1, 1 / 4, 1 / 16, 1 / 64])


def test_a_picture_stays_with_the_product_of_the_chances_of_its_classes():
    ids = [f"{number:032x}" for number in range(20_000)]
    chance = long_tail.chances(3, 16)
    assert all(long_tail.chosen(ids, [[1]] * len(ids), chance))
    for classes, wanted in (([2], 1 / 4), ([2, 3], 1 / 64)):
        assert np.mean(long_tail.chosen(ids, [classes] * len(ids), chance)) == pytest.approx(wanted, rel=0.1)


def test_a_slice_is_as_long_tailed_as_the_whole(tmp_path, monkeypatch, capsys):
    """Slices go by the order of ids, so that what is drawn from that order would put the rare ones first."""
    labels = LabelSpace("wear", CLASSES, ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)), 2)
    ids = [f"{number * 2**116:032x}" for number in range(4000)]
    columns = {"pair_id": ids, "class_ids": [[0, 1 + number % 3] for number in range(len(ids))]}
    rows = pa.table({
        field.name: pa.array(columns.get(field.name, [None] * len(ids)), field.type) for field in PAIR
    })  # fmt: skip
    write_table(rows, f"{tmp_path}/run/shards")
    (tmp_path / "run" / LABELS).write_text(labels.to_json())
    monkeypatch.setattr(sys, "argv", ["long_tail", f"{tmp_path}/run", f"{tmp_path}/tail", "--rarest", "16"])
    long_tail.main()
    assert "of 4,000 pairs" in capsys.readouterr().out
    assert load_labels(f"{tmp_path}/tail") == labels
    kept = ids_of(f"{tmp_path}/tail")
    boots = [ids.index(one) % 3 == 2 for one in kept]
    assert sum(boots) == pytest.approx(4000 / 3 / 16, rel=0.3)
    assert np.mean(boots[: len(boots) // 2]) == pytest.approx(np.mean(boots), rel=0.5)


def test_what_nothing_can_be_drawn_from_is_refused(tmp_path, monkeypatch, capsys):
    rows = pa.table(
        {field.name: pa.array(["a" * 32] if field.name == "pair_id" else [None], field.type) for field in PAIR}
    )
    write_table(rows, f"{tmp_path}/run/shards")
    labels = LabelSpace("wear", CLASSES, ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)), 2)
    (tmp_path / "run" / LABELS).write_text(labels.to_json())
    for further, told in (([], "some pictures have no mask"), (["--rarest", "0.5"], "give 1 or more")):
        monkeypatch.setattr(sys, "argv", ["long_tail", f"{tmp_path}/run", f"{tmp_path}/tail", *further])
        with pytest.raises(SystemExit):
            long_tail.main()
        assert told in capsys.readouterr().err
    assert not (tmp_path / "tail").exists()
