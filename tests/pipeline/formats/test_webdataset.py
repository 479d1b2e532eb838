from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import webdataset

from models.labels import VOC, LabelSpace
from pipeline.formats.webdataset import READING, WebDataset
from tests.pipeline.formats.fabricated import save_set, tree_of, written

MANY = LabelSpace.custom("many", tuple(f"thing {number}" for number in range(300)))


@pytest.mark.parametrize("labels", [VOC, MANY], ids=["8 bits", "16 bits"])
def test_its_own_reader_gives_the_pairs_back(tmp_path, monkeypatch, labels):
    made = save_set(tmp_path / "a", labels)
    written(WebDataset(tree_of(tmp_path, labels)), tmp_path / "parts", train=tmp_path / "a")

    tars = sorted(map(str, (tmp_path / "export").glob("train-*.tar")))
    snippet: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path / "export")
    exec(READING.replace("{split}", "train"), snippet)
    pairs = list(webdataset.WebDataset(tars, shardshuffle=False).decode(*snippet["decoders"]))

    assert len(tars) == 2 and {pair["__key__"] for pair in pairs} == made.rows.keys()
    for pair in pairs:
        name = pair["__key__"]
        image = next(pair[suffix] for suffix in ("jpg", "png", "webp") if suffix in pair)
        assert (np.array(image) == made.image(name)).all()
        assert (pair["mask.png"] == made.masks[name]).all()
        row = made.rows[name]
        for fact in ("pair_id", "prompt", "captions", "class_ids", "origin", "dataset", "key", "bundle", "sampler"):
            assert pair["json"][fact] == row.get(fact)


def test_the_same_pairs_give_the_same_bytes(tmp_path):
    save_set(tmp_path / "a", VOC)
    format = WebDataset(tree_of(tmp_path, VOC))
    content = []
    for _ in range(2):
        written(format, tmp_path / "parts", train=tmp_path / "a")
        content.append({path.name: path.read_bytes() for path in (tmp_path / "export").rglob("*") if path.is_file()})

    assert content[0] == content[1] and "train-000001.tar" in content[0]
