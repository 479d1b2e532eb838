"""What all sources share: which files are found, by which names, and what is told of the others."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from models.labels import VOC
from pipeline.base.errors import DataError
from pipeline.datasets.coco import COCO
from pipeline.datasets.folder import Folder
from pipeline.datasets.source import files_below, read_captions, read_lines
from tests.pipeline.datasets.trees import (
    encoded,
    instances,
    mask_of,
    picture,
    read_all,
    save_json,
    save_mask,
    save_picture,
)

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jodiffusion"), "propagate", True)
    return caplog


@pytest.mark.parametrize(
    ("suffix", "format"), [("jfif", "jpeg"), ("jpe", "jpeg"), ("gif", "gif"), ("avif", "avif"), ("TIF", "tiff")]
)
def test_pictures_of_rarer_suffixes_are_read(tmp_path, suffix, format):
    (tmp_path / "images").mkdir()
    (tmp_path / f"images/a.{suffix}").write_bytes(encoded(picture(), format))
    save_mask(tmp_path / "masks/a.png", mask_of(1))
    captions = save_json(tmp_path / "captions.json", {f"a.{suffix}": "a text"})

    row = read_all(Folder(str(tmp_path), VOC, captions=str(captions)))["a"]

    assert not row["error"] and row["image"].shape == (6, 10, 3) and row["captions"] == ["a text"]


def test_files_that_are_passed_over_are_counted_by_suffix(tmp_path, told):
    for name in ("a.png", "b.png", "b.gif", "c.heic", "d.HEIC", "e.txt", "f", ".hidden.raw"):
        (tmp_path / name).write_bytes(b"")

    assert sorted(files_below(str(tmp_path))) == ["a", "b"]
    assert f"{tmp_path}: 5 files were passed over: 2 .heic, 1 .txt, 1 without a suffix, 1 .gif" in told.text


def test_of_two_files_of_one_name_the_usual_suffix_goes_first_and_two_of_those_are_refused(tmp_path):
    for name in ("a.gif", "a.jpg"):
        (tmp_path / name).write_bytes(b"")

    assert files_below(str(tmp_path)) == {"a": f"{tmp_path}/a.jpg"}
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a.png and .*a.jpg: two files of one name"):
        files_below(str(tmp_path))


def test_suffixes_that_keys_kept_are_kept(tmp_path):
    found = instances([{"id": 1, "file_name": "a.gif"}], [], [{"id": 1, "name": "nut"}])
    save_json(tmp_path / "annotations/instances_train.json", found)
    captions = save_json(tmp_path / "captions.json", {"a.gif": "a text"})

    (entry,) = COCO(str(tmp_path), "train", captions=str(captions)).entries().to_pylist()

    assert entry["key"] == "a.gif" and entry["captions"] == ["a text"]


@pytest.mark.parametrize(("image", "mask"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_match_in_all_their_forms_and_keep_their_own_in_keys(tmp_path, image, mask):
    save_picture(tmp_path / f"images/{image}.png")
    save_mask(tmp_path / f"masks/{mask}.png", mask_of(1))
    captions = save_json(tmp_path / "captions.json", {mask: "a coffee"})

    (key, row), *_ = read_all(Folder(str(tmp_path), VOC, captions=str(captions))).items()

    assert key == image and row["captions"] == ["a coffee"]
    np.testing.assert_array_equal(row["mask"], mask_of(1))


@pytest.mark.parametrize(("listed", "on_disk"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_in_annotations_match_files_in_all_their_forms(tmp_path, listed, on_disk):
    save_picture(tmp_path / f"train/{on_disk}.png")
    found = instances([{"id": 1, "file_name": f"{listed}.png"}], [], [{"id": 1, "name": "nut"}])
    save_json(tmp_path / "annotations/instances_train.json", found)

    assert not read_all(COCO(str(tmp_path), "train"))[listed]["error"]


def test_a_name_that_is_not_utf_8_is_read_and_stops_no_other(tmp_path):
    save_picture(tmp_path / "images/a.png")
    save_mask(tmp_path / "masks/a.png", mask_of(1))
    for folder, content in (("images", encoded(picture(9))), ("masks", encoded(mask_of(2)))):
        try:
            Path(os.fsdecode(os.fsencode(tmp_path / folder) + b"/caf\xe9.png")).write_bytes(content)
        except OSError:
            pytest.skip("this file system takes no such name")

    pairs = read_all(Folder(str(tmp_path), VOC))

    assert sorted(pairs) == ["a", r"caf\udce9"]
    np.testing.assert_array_equal(pairs[r"caf\udce9"]["image"], picture(9))
    np.testing.assert_array_equal(pairs[r"caf\udce9"]["mask"], mask_of(2))


def test_half_a_character_in_annotations_stops_no_other(tmp_path):
    save_picture(tmp_path / "train/a.png")
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "\ud83d.png"}]
    save_json(tmp_path / "annotations/instances_train.json", instances(images, [], [{"id": 1, "name": "nut"}]))
    texts = [{"image_id": 1, "caption": "half of \ud83d"}]
    save_json(tmp_path / "annotations/captions_train.json", {"annotations": texts})

    pairs = read_all(COCO(str(tmp_path), "train"))

    assert pairs["a"]["captions"] == [r"half of \ud83d"] and pairs[r"\ud83d"]["error"] == "missing_file"


def test_lines_end_where_editors_end_them(tmp_path):
    (tmp_path / "list.txt").write_bytes("\ufeffa b\r\n c\u2028d \r\n\r\ne\x0bf\na b\rg".encode())

    assert read_lines(str(tmp_path / "list.txt"), "") == ["a b", "c\u2028d", "e\x0bf", "g"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_list_that_is_not_utf_8_is_told(tmp_path, encoding):
    (tmp_path / "list.txt").write_bytes("straße\n".encode(encoding))

    with pytest.raises(DataError, match=r"list.txt: not UTF-8 text \(byte \d\); save it as UTF-8"):
        read_lines(str(tmp_path / "list.txt"), "")


def test_of_a_name_with_two_suffixes_one_is_its_format(tmp_path):
    path = save_json(tmp_path / "captions.json", {"x.gif.png": "a gif", "y.gif": "also", "z.jpg": "none"})

    assert read_captions(str(path)) == {"x.gif": ["a gif"], "y.gif": ["also"], "y": ["also"], "z": ["none"]}


@pytest.mark.parametrize("target", [".", "..", "../..", "../images"])
def test_a_link_to_a_folder_above_itself_is_not_followed(tmp_path, target):
    save_picture(tmp_path / "set/images/x/a.png")
    for place in ("set/images/again", "set/images/x/again"):
        (tmp_path / place).symlink_to(target)

    assert list(files_below(str(tmp_path / "set/images"))) == ["x/a"]


def test_linked_folders_that_link_to_each_other_end(tmp_path):
    save_picture(tmp_path / "one/a.png")
    save_picture(tmp_path / "two/b.png")
    (tmp_path / "one/two").symlink_to(tmp_path / "two")
    (tmp_path / "two/one").symlink_to(tmp_path / "one")

    assert list(files_below(str(tmp_path / "one"))) == ["a", "two/b"]


def test_captions_that_are_not_utf_8_are_told(tmp_path):
    (tmp_path / "captions.json").write_bytes('{"a": "straße"}'.encode("latin-1"))

    with pytest.raises(DataError, match=r"captions.json: not valid JSON \(.*utf-8"):
        read_captions(str(tmp_path / "captions.json"))


def test_python_without_docstrings_and_asserts_reads_the_same(tmp_path):
    save_picture(tmp_path / "images/a.png")
    save_mask(tmp_path / "masks/a.png", mask_of(1))
    program = f"""
from models.labels import VOC
from pipeline.base.config import Config
from pipeline.datasets import coco, hugging_face, regions
from pipeline.datasets.registry import SourceConfig, open_source
from tests.pipeline.datasets.trees import read_all
config = SourceConfig(dataset="folder", root={str(tmp_path)!r}, labels="voc", name="mine")
print(read_all(open_source(config))["a"]["class_pixels"].tolist())
print(regions.region([[2, 1, 5, 1, 5, 4, 2, 4]], 6, 10).sum())
"""
    done = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[:2] == ["[52, 8]", "9"]
