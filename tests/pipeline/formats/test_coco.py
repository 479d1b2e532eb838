from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from models.labels import VOC, LabelSpace
from pipeline.formats.coco import READING, Coco, category_ids, coco_category_ids, segments_of
from pipeline.formats.part import Saved
from tests.pipeline.formats.fabricated import save_set, tree_of, written

OFFICIAL, ADE20K = LabelSpace.named("coco"), LabelSpace.named("ade20k")
MANY = LabelSpace.custom("many", tuple(f"thing {number}" for number in range(300)))
SPACES = pytest.mark.parametrize("labels", [VOC, OFFICIAL, ADE20K, MANY], ids=lambda labels: labels.name)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def exported(tmp_path, labels):
    made = save_set(tmp_path / "a", labels)
    written(Coco(tree_of(tmp_path, labels)), tmp_path / "parts", train=tmp_path / "a")
    return made, tmp_path / "export"


@SPACES
def test_instances_give_the_foreground_back(exported, labels):
    made, folder = exported
    with redirect_stdout(StringIO()):
        coco = COCO(str(folder / "annotations" / "instances_train.json"))
    class_of = {category: class_id for class_id, category in category_ids(labels).items()}

    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(labels.classes[1:])
    assert len(coco.getImgIds()) == 5
    for image in coco.loadImgs(coco.getImgIds()):
        name = image["file_name"].partition(".")[0]
        pixels = np.array(Image.open(folder / "images" / "train" / image["file_name"]).convert("RGB"))
        assert (pixels == made.image(name)).all() and (image["height"], image["width"]) == pixels.shape[:2]
        objects = coco.loadAnns(coco.getAnnIds(image["id"]))
        mask = np.zeros(pixels.shape[:2], labels.dtype)
        for one in objects:
            piece = coco.annToMask(one).astype(bool)
            assert not mask[piece].any() and one["area"] == piece.sum() and one["iscrowd"] == 0
            rows, columns = np.flatnonzero(piece.any(1)), np.flatnonzero(piece.any(0))
            assert one["bbox"] == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
            mask[piece] = class_of[one["category_id"]]
        foreground = np.where(made.masks[name] == labels.ignore_index, 0, made.masks[name])
        assert (mask == foreground).all()
        assert len(objects) == 3


@SPACES
def test_panoptic_pictures_follow_their_specification(exported, labels):
    made, folder = exported
    found = json.loads((folder / "annotations" / "panoptic_train.json").read_text())
    names = {image["id"]: image["file_name"].partition(".")[0] for image in found["images"]}
    categories = {one["id"]: one for one in found["categories"]}

    assert [one["name"] for one in found["categories"] if one["isthing"]] == list(labels.classes[1:])
    assert len(found["annotations"]) == 5
    for one in found["annotations"]:
        picture = np.array(Image.open(folder / "annotations" / "panoptic_train" / one["file_name"])).astype(np.int64)
        ids = picture[..., 0] + 256 * picture[..., 1] + 256**2 * picture[..., 2]
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in one["segments_info"]}
        classes = np.full(ids.shape, "", object)
        for segment in one["segments_info"]:
            inside = ids == segment["id"]
            assert segment["area"] == inside.sum() and segment["iscrowd"] == 0
            classes[inside] = categories[segment["category_id"]]["name"]
        mask = made.masks[names[one["image_id"]]]
        void = (mask == labels.ignore_index) | ((mask == 0) & (labels.zero == "other"))
        expected = np.array(labels.classes, object)[np.where(void, 0, mask)]
        assert (classes == np.where(void, "", expected)).all()


@pytest.mark.parametrize("labels", [VOC])
def test_the_card_reads_it(exported, labels, monkeypatch):
    monkeypatch.chdir(exported[1])
    snippet: dict[str, Any] = {}
    with redirect_stdout(StringIO()):
        exec(READING.replace("{split}", "train"), snippet)
    assert Path(snippet["picture"]).exists() and len(snippet["masks"]) == 3


@pytest.mark.parametrize("labels", [VOC])
def test_captions(exported, labels):
    made, folder = exported
    found = json.loads((folder / "annotations" / "captions_train.json").read_text())
    names = {image["id"]: image["file_name"].partition(".")[0] for image in found["images"]}
    texts: dict[str, list[str]] = {}
    for one in found["annotations"]:
        texts.setdefault(names[one["image_id"]], []).append(one["caption"])

    assert texts == {name: row.get("captions") or [row["prompt"]] for name, row in made.rows.items()}
    assert [one["id"] for one in found["annotations"]] == list(range(1, 10))


def test_segments_have_what_captions_call_their_class(tmp_path):
    save_set(tmp_path / "a", VOC, captions=["a small white aeroplane"])
    written(Coco(tree_of(tmp_path, VOC)), tmp_path / "parts", train=tmp_path / "a")
    folder = tmp_path / "export" / "annotations"
    instances, panoptic = (
        json.loads((folder / f"{kind}_train.json").read_text())["annotations"] for kind in ("instances", "panoptic")
    )
    plane = VOC.classes.index("aeroplane")

    for segments in (instances, [one for picture in panoptic for one in picture["segments_info"]]):
        assert {one.get("phrase") for one in segments if one["category_id"] == plane} == {"small white aeroplane"}
        assert not any("phrase" in one for one in segments if one["category_id"] != plane)


def test_categories_of_the_conventions():
    assert list(category_ids(OFFICIAL).values()) == [*coco_category_ids(), 91]
    assert category_ids(OFFICIAL)[12] == 13 and category_ids(OFFICIAL)[80] == 90
    assert category_ids(VOC) == {**{class_id: class_id for class_id in range(1, 21)}, 0: 21}
    assert category_ids(ADE20K) == {class_id: class_id for class_id in range(1, 151)}


def test_masks_without_objects_or_without_background():
    nothing, segments = segments_of(np.full((4, 5), 255, np.uint8), VOC)
    assert not nothing.any() and segments == []

    ids, segments = segments_of(np.full((4, 5), 3, np.uint8), VOC)
    assert (ids == 1).all() and [(one["category_id"], one["area"]) for one in segments] == [(3, 20)]

    ids, segments = segments_of(np.zeros((4, 5), np.uint8), VOC)
    assert (ids == 1).all() and [(one["category_id"], one["bbox"]) for one in segments] == [(21, [0, 0, 5, 4])]


def test_records_are_read_once_and_one_at_a_time(tmp_path, monkeypatch):
    save_set(tmp_path / "a", VOC, 12, num_shards=6)
    format = Coco(tree_of(tmp_path, VOC))
    written(format, tmp_path / "parts", train=tmp_path / "a")
    before = {path.name: json.loads(path.read_text()) for path in (tmp_path / "export/annotations").glob("*.json")}
    read: list[str] = []

    def reading(path: str) -> bytes:
        read.append(path)
        return Path(path).read_bytes()

    monkeypatch.setattr("pipeline.formats.part.read_bytes", reading)
    paths = sorted(map(str, (tmp_path / "parts").glob("*.json")))

    format.finish({"train": Saved(tuple(paths))})

    assert read == paths
    after = {path.name: json.loads(path.read_text()) for path in (tmp_path / "export/annotations").glob("*.json")}
    assert after == before and len(after["instances_train.json"]["images"]) == 12
