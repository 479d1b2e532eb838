"""Galleries are made once, go on where they were cut, and are there whole or not at all. What the page does:
tests/pipeline/pages/test_gallery_page.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from models.labels import VOC
from pipeline.base.errors import DataError, Stopped
from pipeline.gallery import GalleryConfig, gallery
from pipeline.pages import gallery_pictures
from pipeline.tables.label_space import LABELS
from pipeline.tables.shards import list_shards
from tests.pipeline.pages.gallery_sets import content, make_gallery, save_scores, save_set, without_ray


def written(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.ray
def test_parts_are_made_in_tasks(tmp_path, ray_session):
    save_set(tmp_path / "a", "a", 12, num_shards=3)
    page = Path(gallery(GalleryConfig(run="look", runs=str(tmp_path), pairs=(str(tmp_path / "a"),))))
    assert page.read_text().count("index-") == 3 and len(list(page.parent.glob("pictures/*/0.webp"))) == 3
    meta = json.loads(content(page.parent, "meta"))
    assert meta["num"] == 12 and [num for _, num in meta["parts"]] == [4, 4, 4] and meta["num_large"] == 12


def test_the_same_command_makes_nothing_anew_and_other_scores_no_pictures(tmp_path):
    ids = save_set(tmp_path / "a", "a", 12)
    folder = make_gallery(tmp_path, tmp_path / "a")
    before = written(folder)
    make_gallery(tmp_path, tmp_path / "a")
    again = written(folder)
    assert before.pop("index.html") < again.pop("index.html") and before == again

    save_scores(tmp_path / "scores", "plain", ids, sharpness=[float(number) for number in range(12)])
    make_gallery(tmp_path, tmp_path / "a", scores=(str(tmp_path / "scores"),))
    scored = written(folder)
    pictures = {name for name in before if name.startswith("pictures/")}
    assert pictures and all(scored[name] == before[name] for name in pictures)
    assert len(list(folder.glob("index-*"))) == 1 and "sharpness" in str(content(folder, "meta"))


def test_more_pairs_make_what_is_new_and_what_is_gone_goes(tmp_path):
    save_set(tmp_path / "a", "a", 6, num_shards=1)
    folder = make_gallery(tmp_path, tmp_path / "a")
    (first,) = folder.glob("pictures/*")
    before = written(first)
    save_set(tmp_path / "a", "b", 4, num_shards=1)
    make_gallery(tmp_path, tmp_path / "a")
    assert written(first) == before and len(list(folder.glob("pictures/*"))) == 2
    for shard in list_shards(str(tmp_path / "a")):
        Path(shard).unlink()
    save_set(tmp_path / "a", "b", 4, num_shards=1)
    make_gallery(tmp_path, tmp_path / "a")
    assert not first.exists() and json.loads(content(folder, "meta"))["num"] == 4


def test_more_pairs_than_are_kept_large_make_what_is_new_alone(tmp_path):
    ids = save_set(tmp_path / "a", "a", 48, num_shards=4)
    folder = make_gallery(tmp_path, tmp_path / "a", large_pairs=20)
    before = {path.name for path in folder.glob("pictures/*")}
    save_set(tmp_path / "a", "b", 4, num_shards=1, image_digest=["ab"] * 4)
    make_gallery(tmp_path, tmp_path / "a", large_pairs=20)
    with_more = {path.name for path in folder.glob("pictures/*")}
    assert before < with_more and len(with_more) == 5

    real = save_set(tmp_path / "real", "r", 2, origin=["real"] * 2)
    save_scores(tmp_path / "scores", "nearest", ids, nearest_id=real * 24)
    (tmp_path / "scores/config.yaml").write_text(json.dumps({"real": [str(tmp_path / "real")]}))
    make_gallery(tmp_path, tmp_path / "a", large_pairs=20, scores=(str(tmp_path / "scores"),))
    assert with_more < {path.name for path in folder.glob("pictures/*")}, "only the real pairs are new"


def test_other_scores_in_files_of_the_same_size_are_shown(tmp_path):
    ids = save_set(tmp_path / "a", "a", 12)
    seen = []
    for first in (2.0, 3.0):
        shutil.rmtree(tmp_path / "scores", ignore_errors=True)
        save_scores(tmp_path / "scores", "plain", ids, sharpness=[first, *[1.0] * 11])
        folder = make_gallery(tmp_path, tmp_path / "a", scores=(str(tmp_path / "scores"),))
        (number,) = [one for one in json.loads(content(folder, "meta"))["numbers"] if one["name"] == "sharpness"]
        seen.append((number["most"], Path(list_shards(str(tmp_path / "scores/plain"))[0]).stat().st_size))
    assert seen[0][0] == 2 and seen[1][0] == 3 and seen[0][1] == seen[1][1]


def test_a_stop_ends_the_part_that_has_begun_and_leaves_no_page(tmp_path, monkeypatch):
    save_set(tmp_path / "a", "a", 12, num_shards=3)
    made = gallery_pictures.make_part
    calls = []

    def stopped_at_the_first(*arguments):
        calls.append(arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return made(*arguments)

    monkeypatch.setattr("pipeline.gallery.make_part", stopped_at_the_first)
    with pytest.raises(Stopped, match="stopped: 4 of 12 pairs are in .*look/gallery"):
        make_gallery(tmp_path, tmp_path / "a")
    assert not (tmp_path / "look/gallery/index.html").exists() and len(calls) == 1
    monkeypatch.setattr("pipeline.gallery.make_part", made)
    folder = make_gallery(tmp_path, tmp_path / "a")
    assert (folder / "index.html").exists() and len(list(folder.glob("pictures/*"))) == 3


def test_what_a_killed_writer_left_is_removed_and_a_part_without_a_record_made_again(tmp_path):
    save_set(tmp_path / "a", "a", 6, num_shards=1)
    folder = make_gallery(tmp_path, tmp_path / "a")
    (part,) = folder.glob("pictures/*")
    (part / "part.json").unlink()
    (part / ".0.webp.12345678.draft").write_bytes(b"half")
    shutil.rmtree(next(folder.glob("index-*")) / "rows")
    (next(folder.glob("index-*")) / "meta.js").unlink()
    make_gallery(tmp_path, tmp_path / "a")
    assert (
        (part / "part.json").exists() and not list(folder.rglob(".*.draft")) and list(folder.glob("index-*/rows/0.js"))
    )


def test_damaged_pairs_are_named_and_the_others_shown(tmp_path, caplog):
    ids = save_set(tmp_path / "a", "a", 3, num_shards=1, image=[b"no picture"] * 3)
    with caplog.at_level("WARNING"):
        make_gallery(tmp_path, tmp_path / "a")
    assert f"cannot show {ids[0]}: pair {ids[0]}, image: not a picture" in caplog.text
    assert "3 pairs are damaged; their tiles say so" in caplog.text


def test_what_it_takes_is_told_before_and_a_disk_that_is_too_small_refused(tmp_path, monkeypatch, caplog):
    save_set(tmp_path / "a", "a", 6)
    monkeypatch.setattr("pipeline.gallery.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with (
        caplog.at_level("INFO"),
        pytest.raises(DataError, match="gallery takes about 0.00 GB, but 0.00 are free there; lower large_pairs"),
    ):
        make_gallery(tmp_path, tmp_path / "a")
    assert "6 of 6 pairs to make, about 0.00 GB into" in caplog.text and "6 pairs are kept large" in caplog.text
    assert not list((tmp_path / "look").rglob("*.webp"))


def test_runs_of_other_classes_are_not_shown_together(tmp_path):
    for name in ("a", "b"):
        save_set(tmp_path / name, name, 2)
    VOC.save(tmp_path / "b" / LABELS)
    with pytest.raises(DataError, match="one number would mean two things"):
        make_gallery(tmp_path, tmp_path / "a", tmp_path / "b")


def test_a_gallery_lies_on_a_store_too(tmp_path):
    save_set(tmp_path / "a", "a", 3, num_shards=1)
    with without_ray():
        values = {"pairs": (str(tmp_path / "a"),), "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
        page = gallery(GalleryConfig.model_validate({"run": "look", "runs": "memory://galleries", **values}))

    assert page == "memory://galleries/look/gallery/index.html"
    names = fsspec.filesystem("memory").find("/galleries/look/gallery")
    assert sum(name.endswith(".webp") for name in names) == 1 and any(name.endswith("meta.js") for name in names)
