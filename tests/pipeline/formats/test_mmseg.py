"""What MMSegmentation would do with the files, step by step: it is not installed here."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.labels import VOC, LabelSpace
from pipeline.base.errors import ConfigError
from pipeline.formats.mmseg import MMSegmentation
from tests.pipeline.formats.fabricated import save_set, tree_of, written

ADE20K = LabelSpace.named("ade20k")
WIDE = replace(VOC, ignore_index=65535)


def read_config(path: Path) -> dict[str, Any]:
    """A config as MMEngine executes it: variables put in, bases read first; those of MMSegmentation are left out."""
    text = path.read_text().replace("{{ fileDirname }}", str(path.parent))
    tree = ast.parse(text)
    bases = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_base_"]
    known: dict[str, Any] = {}
    for base in (ast.literal_eval(node.value) for node in bases):
        assert base[0].startswith("mmseg::") and base[1:] == ["./dataset.py"]
        known = read_config(path.parent / "dataset.py")
    tree.body = [node for node in tree.body if node not in bases]
    values: dict[str, Any] = {"_base_": SimpleNamespace(**known)}
    exec(compile(tree, str(path), "exec"), values)
    return {name: value for name, value in values.items() if not name.startswith("_")}


def load(dataset: dict[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """As BaseSegDataset, LoadImageFromFile and LoadAnnotations read it: image and mask by name."""
    root = Path(dataset["data_root"])
    names = (root / dataset["ann_file"]).read_text().split()
    found = {}
    for name in names:
        image = Image.open(root / dataset["data_prefix"]["img_path"] / (name + dataset["img_suffix"]))
        mask = Image.open(root / dataset["data_prefix"]["seg_map_path"] / (name + dataset["seg_map_suffix"]))
        ids = np.array(mask).squeeze().astype(np.uint8)
        if dataset["reduce_zero_label"]:
            ids[ids == 0] = 255
            ids = ids - 1
            ids[ids == 254] = 255
        found[name] = np.array(image.convert("RGB")), ids
    assert len(found) == len(names)
    return found


@pytest.mark.parametrize("config", ["mask2former", "deeplabv3"])
@pytest.mark.parametrize("labels", [VOC, ADE20K, WIDE], ids=["voc", "ade20k", "voc of 16 bits"])
def test_a_trainer_sees_the_classes_that_were_put_in(tmp_path, labels, config):
    made = save_set(tmp_path / "a", labels)
    written(MMSegmentation(tree_of(tmp_path, labels, image_format="png")), tmp_path / "parts", train=tmp_path / "a")

    read = read_config(tmp_path / "export" / "configs" / f"{config}.py")
    dataset = read["train_dataloader"]["dataset"]

    classes, palette = (dataset["metainfo"][name] for name in ("classes", "palette"))
    assert dataset["_delete_"] and dataset["type"] == "BaseSegDataset"
    assert classes == labels.classes[labels.zero == "other" :] and len(palette) == len(classes)
    heads = [head for name, head in read["model"].items() if name.endswith("_head")]
    assert [head["num_classes"] for head in heads] == [len(classes)] * (1 if config == "mask2former" else 2)
    if config == "mask2former":
        assert heads[0]["loss_cls"]["class_weight"] == [1.0] * len(classes) + [0.1]
    pairs = load(dataset)
    assert pairs.keys() == made.rows.keys()
    for name, (image, ids) in pairs.items():
        assert (image == made.image(name)).all()
        mask = made.masks[name]
        unknown = (mask == labels.ignore_index) | ((mask == 0) & (labels.zero == "other"))
        named = np.array(labels.classes)[np.where(unknown, 0, mask)]
        assert ((ids == 255) == unknown).all()
        assert (np.array(classes)[np.where(unknown, 0, ids)][~unknown] == named[~unknown]).all()
    assert read["val_dataloader"] is read["val_cfg"] is read["val_evaluator"] is read["test_dataloader"] is None


def test_the_card_counts_ignored_pixels_under_the_id_that_they_are_written_with(tmp_path):
    ignored = []
    for name, labels in (("voc", VOC), ("wide", WIDE)):
        save_set(tmp_path / name / "a", labels)
        tree = tree_of(tmp_path / name, labels, image_format="png")
        written(MMSegmentation(tree), tmp_path / name / "parts", train=tmp_path / name / "a")
        card = (tmp_path / name / "export" / "README.md").read_text()
        ignored += [line for line in card.splitlines() if "(ignored)" in line]

    assert ignored[0] == ignored[1] and "| 255 |" in ignored[0] and "0.00%" not in ignored[0]


def test_splits_have_lists_of_their_own(tmp_path):
    made = {name: save_set(tmp_path / name, VOC, 3) for name in ("train", "validation", "test")}
    format = MMSegmentation(tree_of(tmp_path, VOC, image_format="webp"))
    written(format, tmp_path / "parts", **{name: tmp_path / name for name in made})

    read = read_config(tmp_path / "export" / "configs" / "deeplabv3.py")

    for kind, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert load(read[f"{kind}_dataloader"]["dataset"]).keys() == made[split].rows.keys()
    lists = tmp_path / "export" / "ImageSets" / "Segmentation"
    assert sorted(path.name for path in lists.iterdir()) == ["test.txt", "train.txt", "val.txt"]


def test_without_test_pairs_it_tests_on_those_of_validation(tmp_path):
    for name in ("train", "validation"):
        save_set(tmp_path / name, VOC, 2)
    format = MMSegmentation(tree_of(tmp_path, VOC, image_format="jpeg"))
    written(format, tmp_path / "parts", train=tmp_path / "train", validation=tmp_path / "validation")

    read = read_config(tmp_path / "export" / "configs" / "mask2former.py")

    assert read["test_dataloader"] == read["val_dataloader"] and "test_cfg" not in read


def test_jpeg_bytes_stay(tmp_path):
    made = save_set(tmp_path / "a", VOC)
    written(MMSegmentation(tree_of(tmp_path, VOC, image_format="jpeg")), tmp_path / "parts", test=tmp_path / "a")

    kept = list(made.rows)[1]
    assert (tmp_path / "export" / "JPEGImages" / f"{kept}.jpg").read_bytes() == made.rows[kept]["image"]
    assert not (tmp_path / "export" / "configs" / "mask2former.py").exists()
    assert "reduce_zero_label=False" in (tmp_path / "export" / "configs" / "dataset.py").read_text()


def test_masks_are_coloured_for_people(tmp_path):
    made = save_set(tmp_path / "a", WIDE, 1, num_shards=1)
    written(MMSegmentation(tree_of(tmp_path, WIDE, image_format="png")), tmp_path / "parts", train=tmp_path / "a")

    (name,) = made.rows
    with Image.open(tmp_path / "export" / "SegmentationClass" / f"{name}.png") as picture:
        assert picture.mode == "P"
        assert (np.array(picture.convert("RGB")) == WIDE.colours(made.masks[name])).all()
    assert LabelSpace.load(tmp_path / "export" / "label_space.json").ignore_index == 255


def test_what_does_not_fit_is_refused(tmp_path):
    many = LabelSpace.custom("many", tuple(f"thing {number}" for number in range(300)))

    with pytest.raises(ConfigError, match="8 bits.*300 classes.*huggingface"):
        MMSegmentation(tree_of(tmp_path, many, image_format="png"))
    with pytest.raises(ConfigError, match="set image_format"):
        MMSegmentation(tree_of(tmp_path, VOC))
