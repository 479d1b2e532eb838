from __future__ import annotations

import json
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from models.labels import VOC, LabelSpace
from pipeline.formats.huggingface import READING, HuggingFace
from pipeline.pictures.codec import decode_image
from pipeline.tables.conform import conform
from pipeline.tables.label_space import described, run_card
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import write_table
from tests.pipeline.formats.fabricated import save_rows, save_set, tree_of, written

ADE20K = LabelSpace.named("ade20k")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_load_dataset_gives_the_pairs_back(tmp_path, caplog):
    train, test = save_set(tmp_path / "a", VOC), save_set(tmp_path / "b", VOC, 3)
    written(HuggingFace(tree_of(tmp_path, VOC)), tmp_path / "parts", train=tmp_path / "a", validation=tmp_path / "b")

    loaded = datasets.load_dataset(str(tmp_path / "export"))

    assert not caplog.records  # it says there what it does not understand of the card
    exec(READING.replace("path/of/this/folder", str(tmp_path / "export")).replace("{split}", "train"), {})

    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 5, "validation": 3}
    for split, made in (("train", train), ("validation", test)):
        assert set(loaded[split]["pair_id"]) == made.rows.keys()
        for pair in loaded[split]:
            name, row = pair["pair_id"], made.rows[pair["pair_id"]]
            assert (np.array(pair["image"]) == made.image(name)).all()
            assert (np.array(pair["mask"]) == made.masks[name]).all()
            for fact in ("prompt", "captions", "class_ids", "class_pixels", "origin", "dataset", "key", "sampler"):
                assert pair[fact] == row[fact]
    assert sorted(path.name for path in (tmp_path / "export" / "data").iterdir()) == [
        "train-00000-of-00002.parquet", "train-00001-of-00002.parquet",
        "validation-00000-of-00002.parquet", "validation-00001-of-00002.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize("labels", [VOC, ADE20K])
def test_classes_and_what_numbers_mean_are_in_an_export_and_in_its_files_alone(tmp_path, labels):
    save_set(tmp_path / "a", labels, prompt_class_ids=[1, 3])
    written(HuggingFace(tree_of(tmp_path, labels)), tmp_path / "parts", train=tmp_path / "a")

    whole = datasets.load_dataset(str(tmp_path / "export"))["train"]
    alone = datasets.load_dataset("parquet", data_files=f"{tmp_path}/export/data/*.parquet")["train"]

    assert whole.features["prompt_class_ids"].feature.names == list(labels.classes)
    assert whole[0]["prompt_class_ids"] == [1, 3]
    for told in (whole.features["mask"].id, alone.features["mask"].id, whole.info.description):
        assert f"1 {labels.classes[1]}" in told and "Ignore index 255" in told
        assert ("0 is no class" in told) == (labels.zero == "other")
    facts = json.loads((tmp_path / "export/croissant.json").read_text())
    assert facts["recordSet"][0]["data"][1]["classes/name"] == labels.classes[1]


def test_the_shards_of_a_run_say_it_too_and_load_by_its_folder(tmp_path):
    made = save_set(tmp_path / "a", VOC)
    rows = pa.Table.from_pylist(list(made.rows.values()))
    write_table(conform(rows, described(PAIR, VOC)), f"{tmp_path}/b/shards")
    write_table(pa.table({"pair_id": ["x"], "reason": ["wrong_mask"]}), f"{tmp_path}/b/errors")
    (tmp_path / "b/README.md").write_text(run_card(VOC))

    loaded = datasets.load_dataset(str(tmp_path / "b"))["train"]

    assert len(loaded) == 5 and "15 person" in loaded.features["mask"].id and "15 person" in loaded.info.description
    schema = pq.read_schema(next((tmp_path / "b/shards").iterdir()))
    assert LabelSpace.from_json(schema.metadata[b"label_space"].decode()) == VOC


def test_a_set_of_real_pairs_is_not_called_synthetic(tmp_path):
    kinds: dict[str, dict[str, Any]] = {"real": {"origin": "real", "bundle": None, "sampler": None}, "mixed": {}}
    for kind, changes in kinds.items():
        save_set(tmp_path / kind, VOC, **changes)
        written(HuggingFace(tree_of(tmp_path / kind, VOC)), tmp_path / f"{kind}-parts", train=tmp_path / kind)
    real, mixed = ((tmp_path / kind / "export/README.md").read_text() for kind in ("real", "mixed"))

    assert "- synthetic" in mixed and "generated pairs come from text prompts" in mixed
    assert "synthetic" not in real and "enerated pairs" not in real and "none, all pairs are real" in real


def test_files_are_as_shards_are(tmp_path):
    rows = list(save_set(tmp_path / "a", VOC, 2).rows.values())
    save_rows([{**rows[0], "pair_id": f"{number:032x}"} for number in range(150)], tmp_path / "b")
    written(HuggingFace(tree_of(tmp_path, VOC)), tmp_path / "parts", train=tmp_path / "b")

    with pq.ParquetFile(tmp_path / "export" / "data" / "train-00000-of-00001.parquet") as file:
        assert file.schema_arrow.equals(PAIR, check_metadata=False)
        assert b"huggingface" in file.schema_arrow.metadata
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [100, 50]


def test_the_card_says_what_it_is(tmp_path):
    odd = "a | `b` <script> \n# [x](y)"
    made = save_set(tmp_path / "a", VOC, prompt=odd)
    broken = save_set(tmp_path / "b", VOC, 2, mask=b"broken")
    save_rows(list(made.rows.values()), tmp_path / "b")
    written(HuggingFace(tree_of(tmp_path, VOC)), tmp_path / "parts", train=tmp_path / "b")

    _, front, card = (tmp_path / "export" / "README.md").read_text().split("---\n", 2)

    facts = yaml.safe_load(front)
    assert facts["pretty_name"] == "Shapes" and facts["license"] == "other" and facts["size_categories"] == ["n<1K"]
    assert facts["task_categories"] == ["image-segmentation"]
    assert facts["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    (split,) = facts["dataset_info"]["splits"]
    assert split["name"] == "train" and split["num_examples"] == 5 and split["num_bytes"] > 5000
    assert len(facts["dataset_info"]["features"]) == len(PAIR)
    assert "real (4), synthetic (1)" in card and "shapes/train (4)" in card and "b" * 16 in card
    assert all(f"- `{name}`: pair {name}, mask" in card.replace("\\", "") for name in broken.rows)
    assert "2 pairs are left out" in card and "run-train" in card and '{"steps":20}' in card
    assert "<script>" not in card and "1. a \\| \\`b\\` &lt;script&gt; \\# \\[x\\](y)\n" in card
    assert "is a class like the others" in card
    pixels = sum((mask == 20).sum() for mask in made.masks.values()) / sum(mask.size for mask in made.masks.values())
    images = sum((mask == 20).any() for mask in made.masks.values())
    assert f"| 20 | tvmonitor | #004080 | {images} | {pixels:.2%} |" in card
    assert "| 255 | (ignored) | #ffffff | 5 |" in card

    export = tmp_path / "export"
    assert LabelSpace.load(export / "label_space.json") == VOC
    assert decode_image((export / "assets" / "pairs.png").read_bytes(), "").shape == (
        384,
        3 * 196 - 4,
        3,
    )  # three of the one part that has some


def test_the_card_says_that_other_is_no_class(tmp_path):
    save_set(tmp_path / "a", ADE20K)
    written(HuggingFace(tree_of(tmp_path, ADE20K, ignore_below=0.5)), tmp_path / "parts", test=tmp_path / "a")

    card = (tmp_path / "export" / "README.md").read_text()

    assert "`reduce_zero_label=True`" in card and 'id 1, "wall", the first class' in card
    assert "confidence is below 0.5 hold 255" in card and 'split="test"' in card
    assert json.loads((tmp_path / "export" / "label_space.json").read_text())["zero"] == "other"
