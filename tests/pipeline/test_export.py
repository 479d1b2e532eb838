from __future__ import annotations

import io
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.labels import VOC, LabelSpace
from pipeline.base.errors import ConfigError, DataError, ShardError, Stopped
from pipeline.export import ExportConfig, export
from pipeline.formats.part import Saved
from pipeline.formats.registry import FORMATS
from pipeline.tables.selection import write_selection
from tests.pipeline.formats.fabricated import save_noise, save_set, tree_of, written


def config(tmp_path: Path, **changes: Any) -> ExportConfig:
    return ExportConfig(**{"run": "out", "runs": str(tmp_path), "format": "webdataset", **changes})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_missing_is_told(tmp_path):
    save_set(tmp_path / "a", VOC, 2)
    save_set(tmp_path / "b", LabelSpace.named("garments"), 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "label_space.json").write_text(VOC.to_json())

    with pytest.raises(ConfigError, match="no pairs are given"):
        export(config(tmp_path))
    with pytest.raises(DataError, match="cannot be used together"):
        export(config(tmp_path, train=(f"{tmp_path}/a",), test=(f"{tmp_path}/b",)))
    with pytest.raises(ShardError, match="no shards in .*empty"):
        export(config(tmp_path, train=(f"{tmp_path}/a", f"{tmp_path}/empty")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"mds"}))
def test_a_store_gets_the_files_that_a_disk_gets(tmp_path, name):
    save_set(tmp_path / "a", VOC)
    store = fsspec.filesystem("memory")
    store.store.clear()
    for folder in (str(tmp_path), f"memory://{name}"):
        tree = tree_of(folder, VOC, image_format="png" if name == "mmseg" else "keep")
        records = written(FORMATS[name](tree), f"{folder}/parts", train=tmp_path / "a")

    there = {path.removeprefix(f"/{name}/export/"): store.cat_file(path) for path in store.find(f"/{name}/export")}
    assert there == content(tmp_path / "export")
    saved = Saved(tuple(f"memory://{name}/parts/train-{index:05d}.json" for index in range(2)))
    assert list(saved) == list(saved) == records["train"]


def ignored_in(tree: Path, name: str) -> dict[str, np.ndarray]:
    """Pair id -> (H, W) bool, where its mask is ignored, as a format has it."""

    def is_void(encoded: bytes) -> np.ndarray:
        pixels = np.array(Image.open(io.BytesIO(encoded)))
        return np.asarray(~pixels.any(-1) if name == "coco" else pixels == VOC.ignore_index)

    if name == "huggingface":
        rows = [row for path in tree.glob("data/*.parquet") for row in pq.read_table(path).to_pylist()]
        return {row["pair_id"]: is_void(row["mask"]["bytes"]) for row in rows}
    if name == "webdataset":
        found = {}
        for path in tree.glob("*.tar"):
            with tarfile.open(path) as file:
                for member in file:
                    if member.name.endswith(".mask.png"):
                        content = file.extractfile(member)
                        assert content is not None
                        found[member.name.removesuffix(".mask.png")] = is_void(content.read())
        return found
    folder = {"mmseg": "SegmentationClass", "coco": "annotations/panoptic_train"}[name]
    return {path.stem: is_void(path.read_bytes()) for path in tree.glob(f"{folder}/*.png")}


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"mds"}))
def test_a_selection_and_noise_maps_hold_in_every_format(tmp_path, monkeypatch, name):
    made = save_set(tmp_path / "a", VOC)
    scores = save_noise(tmp_path / "scores", made.rows, made.masks)
    ids = list(made.rows)
    rows = pa.table({"pair_id": ids, "reason": pa.array([None, "dull", None, "dull", None], pa.string())})
    write_selection(str(tmp_path / "chosen"), str(tmp_path / "a"), rows)
    (tmp_path / "chosen" / "label_space.json").write_text(VOC.to_json())
    monkeypatch.setattr("pipeline.export.require", lambda workers: None)
    monkeypatch.setattr("pipeline.export.in_tasks", lambda function, calls, workers: (function(*one) for one in calls))

    tree = export(config(tmp_path, format=name, train=(f"{tmp_path}/chosen",), ignore_noisy=scores))

    found = ignored_in(Path(tree), name)
    assert found.keys() == {ids[0], ids[2], ids[4]}
    for one, ignored in found.items():
        expected = made.masks[one] == VOC.ignore_index
        if one == ids[4]:  # the generated one; of the real ones people know better than a judge
            expected[: len(expected) // 2] = True
        assert (ignored == expected).all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_what_has_begun_and_the_same_command_goes_on(tmp_path, monkeypatch, number):
    save_set(tmp_path / "a", VOC, 8, num_shards=3)
    one = config(tmp_path, train=(f"{tmp_path}/a",))
    monkeypatch.setattr("pipeline.export.require", lambda workers: None)

    def in_this_process(function, calls, workers):
        for call in calls:
            yield function(*call)

    def stopped_at_the_first(function, calls, workers):
        for num in in_this_process(function, calls, workers):
            os.kill(os.getpid(), number)
            yield num

    monkeypatch.setattr("pipeline.export.in_tasks", stopped_at_the_first)
    with pytest.raises(Stopped, match="stopped: 1 of 3 parts are written in .*/out/export"):
        export(one)
    monkeypatch.setattr("pipeline.export.in_tasks", in_this_process)
    stopped = content(tmp_path / "out" / "export")
    assert len(stopped) == 1
    tree = content(Path(export(one)))
    assert len(tree) > 3 and stopped.items() <= tree.items()


@pytest.mark.ray
def test_a_run_is_written_once_and_gone_on_with(tmp_path, ray_session, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    made = save_set(tmp_path / "a", VOC, 8, num_shards=3)
    broken = save_set(tmp_path / "b", VOC, 1, num_shards=1, image={"bytes": b"broken", "path": None})
    save_set(tmp_path / "test", VOC, 2, num_shards=1)
    sets = {"train": (f"{tmp_path}/a", f"{tmp_path}/b"), "test": (f"{tmp_path}/test",)}

    tree = Path(export(config(tmp_path, run="hf", format="huggingface", **sets)))
    (name,) = broken.rows
    told = capsys.readouterr().out
    assert f"left out {name}" in told and "8 pairs of train, 2 pairs of test" in told and "1 are damaged" in told
    assert set(datasets.load_dataset(str(tree))["train"]["pair_id"]) == made.rows.keys()

    before = content(tree)
    (tree / "data" / "train-00001-of-00004.parquet").unlink()
    (tmp_path / "hf" / "parts" / "train-00001.json").unlink()
    (tree / "data" / ".train-00000-of-00004.parquet.0.draft").write_bytes(b"")
    export(config(tmp_path, run="hf", format="huggingface", **sets))
    assert content(tree) == before and "1 of 5 parts to write" in capsys.readouterr().out

    tree = Path(export(config(tmp_path, run="mmseg", format="mmseg", pairs=4, **sets)))
    assert len((tree / "ImageSets" / "Segmentation" / "test.txt").read_text().split()) == 2
    assert {path.suffix for path in (tree / "JPEGImages").iterdir()} == {".png"}

    save_set(tmp_path / "test", VOC, 1, num_shards=1, key="more")
    with pytest.raises(ConfigError, match=r"\n  shards: .*\nTake another --run"):
        export(config(tmp_path, run="hf", format="huggingface", **sets))
