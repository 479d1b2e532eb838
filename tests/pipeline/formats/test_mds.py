from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from models.labels import VOC
from pipeline.base.errors import ConfigError
from pipeline.formats.mds import Mosaic, merged
from tests.pipeline.formats.fabricated import save_set, tree_of, written


def test_its_own_reader_gives_the_pairs_back(tmp_path):
    streaming = pytest.importorskip("streaming")
    made = save_set(tmp_path / "a", VOC)
    written(Mosaic(tree_of(tmp_path, VOC)), tmp_path / "parts", train=tmp_path / "a")

    pairs = list(streaming.StreamingDataset(local=str(tmp_path / "export" / "train"), batch_size=1))

    assert {pair["pair_id"] for pair in pairs} == made.rows.keys()
    for pair in pairs:
        image, mask = (np.array(Image.open(io.BytesIO(pair[name]))) for name in ("image", "mask"))
        assert (image == made.image(pair["pair_id"])).all() and (mask == made.masks[pair["pair_id"]]).all()
        assert pair["facts"]["origin"] == made.rows[pair["pair_id"]]["origin"]


@pytest.mark.parametrize("lacks", ["streaming", "brotli"])
def test_without_the_package_or_its_needs_it_says_how_to_install_them(tmp_path, monkeypatch, lacks):
    (tmp_path / "streaming").mkdir()
    (tmp_path / "streaming" / "__init__.py").write_text("import brotli")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("streaming", "brotli"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, lacks, None)

    with pytest.raises(ConfigError, match=f"{lacks}.*pip install --no-deps mosaicml-streaming"):
        Mosaic(tree_of(tmp_path, VOC))


def test_indices_of_folders_become_one():
    def index(*names):
        return {
            "version": 2,
            "shards": [{"samples": 3, "raw_data": {"basename": name, "bytes": 1}, "zip_data": None} for name in names],
        }

    assert merged({"00000": index("shard.00000.mds", "shard.00001.mds"), "00001": index("shard.00000.mds")}) == index(
        "00000/shard.00000.mds", "00000/shard.00001.mds", "00001/shard.00000.mds"
    )
