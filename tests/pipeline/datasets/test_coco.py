"""COCO 2017, and other sets in its form."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.datasets.coco import COCO
from tests.pipeline.datasets.trees import HEIGHT, WIDTH, instances, read_all, save_json, save_picture

GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
IDS = [number for number in range(1, 91) if number not in GAPS]
NAMES = LabelSpace.named("coco").classes[1:]
CATEGORIES = [{"id": number, "name": name} for number, name in zip(IDS, NAMES, strict=True)]
PERSON, CAT, TOOTHBRUSH = 1, 16, 80  # ours: 17 and 90 lose the gaps of the official ids


def box(left, top, right, bottom):
    """A polygon around pixels left <= x < right, top <= y < bottom."""
    return [left, top, right, top, right, bottom, left, bottom]


def painted(*boxes):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, (left, top, right, bottom) in boxes:
        mask[top:bottom, left:right] = value
    return mask


def run_lengths(mask):
    """Uncompressed, column by column, beginning with the zeros."""
    flat = mask.T.reshape(-1).astype(bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]])))
    bounds = np.concatenate([[0], edges, [len(flat)]])
    return {"counts": np.diff(bounds).tolist()[: None if len(edges) else 1], "size": list(mask.shape)}


def save_coco(root, annotations, files=("000000000001.jpg",), categories=CATEGORIES, captions=None):
    images = [{"id": number, "file_name": name} for number, name in enumerate(files, start=1)]
    for image in images:
        save_picture(root / "train2017" / image["file_name"])
    save_json(root / "annotations/instances_train2017.json", instances(images, annotations, categories))
    if captions is not None:
        save_json(root / "annotations/captions_train2017.json", {"annotations": captions})
    return str(root)


def one(category_id, segmentation, image_id=1, **more):
    return {"image_id": image_id, "category_id": category_id, "segmentation": segmentation, **more}


LARGE, SMALL = (1, 1, 9, 5), (3, 2, 6, 4)


@pytest.mark.parametrize("first", [1, 17])
def test_of_two_overlapping_objects_the_later_one_in_the_file_is_on_top(tmp_path, first):
    objects = [one(1, [box(*LARGE)]), one(17, [box(*SMALL)])]
    root = save_coco(tmp_path, objects if first == 1 else objects[::-1])

    mask = read_all(COCO(root, "train2017"))["000000000001"]["mask"]

    wanted = [(PERSON, LARGE), (CAT, SMALL)]
    np.testing.assert_array_equal(mask, painted(*(wanted if first == 1 else wanted[::-1])))


def test_or_the_smaller_one_where_asked_for(tmp_path):
    root = save_coco(tmp_path, [one(17, [box(*SMALL)], area=6.0), one(1, [box(*LARGE)], area=32.0)])

    mask = read_all(COCO(root, "train", overlap="area"))["000000000001"]["mask"]

    np.testing.assert_array_equal(mask, painted((PERSON, LARGE), (CAT, SMALL)))


@pytest.mark.parametrize("area", [{}, {"area": 0}, {"area": float("nan")}])
def test_an_object_without_an_area_is_as_large_as_its_pixels(tmp_path, area):
    root = save_coco(tmp_path, [one(17, [box(*SMALL)], area=6.0), one(1, [box(*LARGE)], **area)])

    mask = read_all(COCO(root, "train", overlap="area"))["000000000001"]["mask"]

    assert (mask == painted((PERSON, LARGE), (CAT, SMALL))).all()


def test_crowds_are_ignored_below_all_objects_or_painted_like_any_other(tmp_path):
    crowd = run_lengths(painted((1, LARGE)))
    root = save_coco(tmp_path, [one(17, [box(*SMALL)]), one(1, crowd, iscrowd=1)])

    ignored = read_all(COCO(root, "train"))["000000000001"]["mask"]
    as_the_reference = read_all(COCO(root, "train", crowd="paint"))["000000000001"]["mask"]

    np.testing.assert_array_equal(ignored, painted((255, LARGE), (CAT, SMALL)))
    np.testing.assert_array_equal(as_the_reference, painted((PERSON, LARGE)), "later in the file, so on top")


def test_compressed_run_lengths_are_read(tmp_path):
    runs = rle.encode(np.asfortranarray(painted((1, LARGE))))
    root = save_coco(tmp_path, [one(17, {"size": runs["size"], "counts": runs["counts"].decode()})])

    np.testing.assert_array_equal(read_all(COCO(root, "train"))["000000000001"]["mask"], painted((CAT, LARGE)))


def test_an_object_of_several_polygons_is_one_object(tmp_path):
    root = save_coco(tmp_path, [one(90, [box(0, 0, 3, 3), box(6, 3, 9, 6)])])

    mask = read_all(COCO(root, "train"))["000000000001"]["mask"]

    np.testing.assert_array_equal(mask, painted((TOOTHBRUSH, (0, 0, 3, 3)), (TOOTHBRUSH, (6, 3, 9, 6))))


def test_an_image_without_annotations_is_all_background(tmp_path):
    root = save_coco(tmp_path, [one(1, [box(*LARGE)])], files=("000000000001.jpg", "000000000002.jpg"))

    row = read_all(COCO(root, "train"))["000000000002"]

    assert row["class_ids"].tolist() == [0] and row["mask"].shape == (HEIGHT, WIDTH)


def test_names_that_hold_jpg_inside_keep_it(tmp_path):
    root = save_coco(tmp_path, [], files=("my.jpg_1.jpg", "ajpg.jpg"))

    assert sorted(read_all(COCO(root, "train"))) == ["ajpg", "my.jpg_1"]


def test_grey_pictures_become_rgb(tmp_path):
    root = save_coco(tmp_path, [])
    save_picture(tmp_path / "train2017/000000000001.jpg", mode="L")
    grey = np.array(Image.open(tmp_path / "train2017/000000000001.jpg"))

    row = read_all(COCO(root, "train"))["000000000001"]

    np.testing.assert_array_equal(row["image"], np.stack([grey] * 3, axis=2))


def test_captions_are_taken_as_they_are_in_their_order(tmp_path):
    texts = ["A person.", " A man with a cat \n", ""]
    root = save_coco(tmp_path, [], captions=[{"image_id": 1, "caption": text} for text in texts])

    row = read_all(COCO(root, "train"))["000000000001"]

    assert (row["prompt"], row["captions"]) == ("A person.", ["A person.", "A man with a cat"])


def test_classes_are_cocos_by_name_and_those_of_the_file_otherwise(tmp_path):
    root = save_coco(
        tmp_path, [one(7, [box(*SMALL)])], categories=[{"id": 9, "name": "nut"}, {"id": 7, "name": "bolt"}]
    )
    source = COCO(root, "train")

    assert source.labels.classes == ("background", "bolt", "nut")
    np.testing.assert_array_equal(read_all(source)["000000000001"]["mask"], painted((1, SMALL)))
    with pytest.raises(DataError, match=r"categories 'nut', 'bolt' are no classes of label space 'voc'"):
        COCO(root, "train", given=LabelSpace.named("voc")).entries()


def test_some_of_cocos_names_are_a_set_of_their_own(tmp_path):
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}]

    source = COCO(save_coco(tmp_path, [one(2, [box(*SMALL)])], categories=categories), "train")

    assert source.labels.classes == ("background", "car", "person")
    np.testing.assert_array_equal(read_all(source)["000000000001"]["mask"], painted((2, SMALL)))


@pytest.mark.parametrize("counts", [[1, 2], [10, 20]])
def test_a_segmentation_that_is_none_is_an_error_of_its_row(tmp_path, counts):
    size = [HEIGHT, WIDTH] if counts[0] > 1 else [4, 4]
    root = save_coco(tmp_path, [one(1, {"counts": counts, "size": size}, iscrowd=1)])

    row = read_all(COCO(root, "train"))["000000000001"]

    assert row["error"] == "wrong_mask" and "neither polygons nor run lengths" in row["error_detail"]


BOX = box(*SMALL)


@pytest.mark.parametrize("segmentation", [[], None, "left out"])
def test_an_object_without_segmentation_is_an_error_of_its_row_and_never_background(tmp_path, segmentation):
    boxed = one(1, segmentation, bbox=[3, 2, 3, 2])
    if segmentation == "left out":
        del boxed["segmentation"]
    root = save_coco(tmp_path, [boxed, one(1, [BOX], image_id=2)], files=("000000000001.jpg", "000000000002.jpg"))

    pairs = read_all(COCO(root, "train"))

    assert pairs["000000000001"]["error"] == "wrong_mask"
    assert "annotation 1 has no segmentation" in pairs["000000000001"]["error_detail"]
    np.testing.assert_array_equal(pairs["000000000002"]["mask"], painted((PERSON, SMALL)))


def test_two_pictures_of_one_id_are_both_named(tmp_path):
    files = ("000000000001.jpg", "000000000002.jpg")
    root = save_coco(tmp_path, [one(1, [BOX])], files=files)
    images = [{"id": 7, "file_name": name} for name in files]
    save_json(tmp_path / "annotations/instances_train2017.json", instances(images, [], CATEGORIES))

    with pytest.raises(DataError, match=r"images 000000000001.jpg and 000000000002.jpg both have the id 7"):
        COCO(root, "train").entries()


@pytest.mark.parametrize("size", [{"width": 10.0, "height": 6.0}, {}])
def test_sizes_that_are_whole_are_read(tmp_path, size):
    assert not resized(tmp_path, size)["error"]


@pytest.mark.parametrize(
    "width", ["10", None, -10, 0, 10.5, True, float("nan"), float("inf"), 10**12], ids=lambda width: repr(width)
)
def test_sizes_that_are_none_are_errors_of_their_rows(tmp_path, width):
    row = resized(tmp_path, {"width": width})

    assert row["error"] == "wrong_mask" and f"its size is {width!r} x 6, not whole numbers" in row["error_detail"]


def resized(root, size):
    """The row of a picture whose annotations say this of its size."""
    image = {"id": 1, "file_name": "a.jpg", **size}
    save_picture(root / "train2017/a.jpg")
    annotations = instances([image], [one(1, [BOX])], CATEGORIES)
    save_json(root / "annotations/instances_train2017.json", annotations)
    return read_all(COCO(str(root), "train"))["a"]


def named(root, *categories):
    """A source whose categories are these, with one object of the last."""
    listed = [{"id": number, "name": name} for number, name in categories]
    return COCO(save_coco(root, [one(categories[-1][0], [BOX])], categories=listed), "train")


def test_categories_of_one_name_are_one_class_as_roboflow_writes_them(tmp_path, told):
    source = named(tmp_path, (0, "nuts"), (2, "bolt"), (1, "nuts"))

    assert source.labels.classes == ("background", "nuts", "bolt")
    np.testing.assert_array_equal(read_all(source)["000000000001"]["mask"], painted((1, SMALL)))
    assert "2 categories are called 'nuts': they are read as one class" in told.text


@pytest.mark.parametrize("background", [(0, "background"), (3, "background"), (0, "_background_"), (0, "Background")])
def test_a_category_of_the_background_is_class_0(tmp_path, told, background):
    source = named(tmp_path, (1, "nut"), background)

    assert source.labels.classes == ("background", "nut")
    assert read_all(source)["000000000001"]["class_ids"].tolist() == [0]
    assert f"category {background[0]}, '{background[1]}', is the background" in told.text


def test_a_name_like_background_with_an_id_of_a_class_is_a_class(tmp_path):
    assert named(tmp_path, (1, "Background"), (2, "nut")).labels.classes == ("background", "Background", "nut")


@pytest.mark.parametrize(
    ("categories", "problem"),
    [([(1, "nut"), (1, "bolt")], "category 1 is 'nut' and 'bolt'"), ([(1, None)], "category 1 has no name")],
)
def test_categories_that_cannot_be_told_apart_are_refused(tmp_path, categories, problem):
    with pytest.raises(DataError, match=problem):
        named(tmp_path, *categories).entries()


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jodiffusion"), "propagate", True)
    return caplog


@pytest.mark.parametrize(
    ("split", "annotations", "file_name", "picture"),
    [
        ("default", "annotations/instances_default.json", "1.jpg", "images/default/1.jpg"),
        ("train", "train/_annotations.coco.json", "1.jpg", "train/1.jpg"),
        ("train", "annotations/instances_train.json", "images\\1.jpg", "images/1.jpg"),
        ("train", "annotations/instances_train.json", "images\\1.jpg", "train/images/1.jpg"),
        ("train", "annotations/instances_train.json", "train/1.jpg", "train/1.jpg"),
        ("train", "result.json", "images/1.jpg", "images/1.jpg"),
        ("train", "result.json", "images\\1.jpg", "images/1.jpg"),
    ],
    ids=[
        "CVAT",
        "Roboflow",
        "Label Studio",
        "Label Studio, moved",
        "names from the root",
        "Label Studio as it is",
        "Label Studio as it is on Windows",
    ],
)
def test_layouts_of_other_programs_are_read(tmp_path, split, annotations, file_name, picture):
    save_picture(tmp_path / picture)
    found = instances([{"id": 1, "file_name": file_name}], [one(1, [BOX])], CATEGORIES)
    save_json(tmp_path / annotations, found)

    (row,) = read_all(COCO(str(tmp_path), split)).values()

    np.testing.assert_array_equal(row["mask"], painted((PERSON, SMALL)))


def test_a_split_that_is_not_there_is_told_with_those_that_are(tmp_path):
    for path in ("annotations/instances_default.json", "valid/_annotations.coco.json"):
        save_json(tmp_path / path, instances([], [], CATEGORIES))

    with pytest.raises(
        DataError, match=r"instances_default.json, valid/_annotations.coco.json; choose `split` by them"
    ):
        COCO(str(tmp_path), "train").entries()


def test_captions_in_another_form_are_told(tmp_path):
    root = save_coco(tmp_path, [], captions=[{"caption": "a text"}])

    with pytest.raises(DataError, match=r"captions_train2017.json: not captions in COCO's form"):
        COCO(root, "train").entries()


def test_a_name_that_reads_as_a_url_is_an_error_of_its_row(tmp_path):
    root = save_coco(tmp_path, [], files=("a.jpg",))
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "http://nowhere/b.jpg"}]
    save_json(tmp_path / "annotations/instances_train2017.json", instances(images, [], CATEGORIES))

    pairs = read_all(COCO(root, "train"))

    assert not pairs["a"]["error"] and pairs["http:/nowhere/b"]["error"]


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="instances_train2017.json: missing; it holds the annotations"):
        COCO(str(tmp_path), "train").entries()
    root = save_coco(tmp_path, [one(1, [box(*SMALL)], image_id=77)])
    with pytest.raises(DataError, match="annotations of image 77, but no such image"):
        COCO(root, "train").entries()
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match="have the keys images, annotations, categories"):
        COCO(root, "train").entries()
    save_json(tmp_path / "annotations/instances_train2017.json", instances([{"id": 1}], [], CATEGORIES))
    with pytest.raises(DataError, match="not in COCO's form, something has no 'file_name'; images need id"):
        COCO(root, "train").entries()


def test_images_without_annotations_have_no_mask_where_only_some_need_one(tmp_path):
    root = save_coco(tmp_path, [one(PERSON, [box(*LARGE)])], files=("1.jpg", "2.jpg"))

    assert read_all(COCO(root, "train2017"))["2"]["class_ids"].tolist() == [0], "an image of background alone"
    some, none = (read_all(COCO(root, "train2017", labelled=which)) for which in ("some", "none"))

    assert some["1"]["class_ids"].tolist() == [0, PERSON] and some["2"]["mask"] is None
    assert none["1"]["mask"] is None and none["2"]["mask"] is None and not none["1"]["error"]


def test_a_split_of_images_alone_is_read(tmp_path, caplog):
    save_picture(tmp_path / "unlabeled2017/7.jpg")
    images = {"images": [{"id": 7, "file_name": "7.jpg"}]}
    save_json(tmp_path / "annotations/image_info_unlabeled2017.json", images)

    source = COCO(str(tmp_path), "unlabeled2017", labelled="none")

    assert source.labels.name == "coco" and read_all(source)["7"]["mask"] is None
    assert "lists no categories: the classes of these pictures are taken to be COCO's 80" in caplog.text
    with pytest.raises(
        DataError, match="image_info_unlabeled2017.json: lists pictures without masks; say --labelled none"
    ):
        COCO(str(tmp_path), "unlabeled2017").entries()


def test_ids_of_categories_that_are_not_alike_are_told(tmp_path):
    root = save_coco(tmp_path, [], categories=[{"id": 1, "name": "x"}, {"id": "2", "name": "y"}])

    with pytest.raises(DataError, match="their ids are not alike"):
        _ = COCO(root, "train", labelled="none").labels


def test_an_area_beyond_all_numbers_is_told(tmp_path):
    root = save_coco(tmp_path, [one(1, [box(*SMALL)], area=10**400)])

    with pytest.raises(DataError, match="not in COCO's form"):
        COCO(root, "train", overlap="area").entries()
