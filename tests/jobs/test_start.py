"""The first hour: a folder in, configs of the whole way and what it takes out."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from jobs._machine import GIB, Here, fit_joint
from jobs.start import StartConfig, main
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import log
from pipeline.datasets.parts import place_of
from pipeline.ingest import IngestConfig, listed, open_source
from tests.pipeline.datasets.test_labelme import box, shape
from tests.pipeline.datasets.test_labelme import save as save_labelme
from tests.pipeline.datasets.trees import mask_of, save_lines, save_mask, save_picture
from tests.pipeline.test_ingest import save_coloured

NAMES = ["ingest-train", "ingest-validation", "ingest-test", "caption", "baseline", "joint", "generate", "evaluate"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save_ids(root, num=8, without=0):
    for number in range(num + without):
        save_picture(root / f"images/{number}.png")
        if number < num:
            save_mask(root / f"masks/{number}.png", mask_of(1 + number % 2))


def begin(**settings):
    main(StartConfig(**{"root": "data", "classes": ("background", "bolt", "nut"), "gpus": 0, **settings}))


def values(name, out="configs/data"):
    return yaml.safe_load((Path(out) / f"{name}.yaml").read_text())


def test_a_machine_without_gpus_gets_the_small_way(tmp_path, capsys):
    save_ids(tmp_path / "data")

    begin()

    told = capsys.readouterr().out
    assert "At 64 px, from nothing" in told and "hours for the steps that are reckoned" in told
    for name in NAMES:
        assert f"configs/data/{name}.yaml" in told and values(name)["runs"] == "runs"
    assert values("joint")["image_size_px"] == 64 and values("joint")["shares"] == []
    assert values("caption")["model"] == "rules" and not Path("configs/data/label.yaml").exists()
    assert values("joint")["optimisation"]["batch_size"] == 4, "no larger than the set"
    assert Path("runs/data/look.html").exists() and yaml.safe_load(Path("configs/data/labels.yaml").read_text()) == {
        "name": "data", "classes": ["background", "bolt", "nut"],
    }  # fmt: skip


def test_the_three_parts_hold_each_picture_once(tmp_path):
    save_ids(tmp_path / "data", 40)

    begin(held_out=20)

    keys: list[str] = []
    sizes: list[int] = []
    for split in ("train", "validation", "test"):
        config = IngestConfig.model_validate(values(f"ingest-{split}"))
        found = listed(open_source(config), config)["key"].to_pylist()
        keys, sizes = keys + found, [*sizes, len(found)]
    assert sorted(keys) == sorted(map(str, range(40))) and min(sizes) > 0


def test_a_large_gpu_gets_unidiffusers_weights_and_pictures_without_masks_a_teacher(tmp_path, capsys):
    save_ids(tmp_path / "data", 8, without=4)

    begin(gpus=1, gpu_gib=80, captions=str(save_captions(tmp_path)))

    told = capsys.readouterr().out
    assert "At 512 px, from UniDiffuser's weights" in told and "1 GPU of 80 GiB" in told
    assert "import_weights --base thu-ml/unidiffuser-v1" in told and "--label-space configs/data/labels.yaml" in told
    assert values("ingest-train")["labelled"] == "some" and "caption" not in told.split("baseline")[0].split("Read")[-1]
    assert values("joint")["shares"] == [1, 3] and values("joint")["train"][1] == "runs/data-latents-labels"
    assert values("label")["pairs"] == "runs/data"


def save_captions(folder):
    path = folder / "captions.json"
    path.write_text(json.dumps({str(number): "a bolt beside nuts" for number in range(12)}))
    return path


@pytest.mark.parametrize(("gpus", "gib", "fits"), [(1, 80, True), (8, 40, True), (1, 8, False), (2, 11, False)])
def test_what_fits_is_worked_out_from_what_a_training_needs(gpus, gib, fits):
    found = fit_joint(Here(gpus, gib * GIB, 8, 40, "as given"))

    assert bool(found) == fits
    if found:
        rows = 32 // (gpus * found["optimisation"]["accumulation"])
        assert rows >= 1 and found["workers"]["num"] == gpus


def test_colours_of_masks_must_be_named_and_are_then_the_palette(tmp_path):
    save_coloured(tmp_path / "data")

    with pytest.raises(ConfigError, match=r"#800000 \(8.9 %\), #008000 \(4.4 %\); name each.*'NAME1 #800000'"):
        begin(classes=())
    with pytest.raises(ConfigError, match=r"colours that are no class's: #008000 \(8 pixels\)"):
        begin(classes=("background #000000", "stop #800000"))
    begin(classes=("background #000000", "stop sign #800000", "yield #008000"))

    made = yaml.safe_load(Path("configs/data/labels.yaml").read_text())
    assert made["classes"][1] == "stop sign" and made["palette"][2] == [0, 128, 0]


def test_values_of_masks_must_be_named(tmp_path):
    save_ids(tmp_path / "data")

    with pytest.raises(ConfigError, match="the values 0, 1, 2; name each, background first: --classes 'background'"):
        begin(classes=())
    with pytest.raises(ConfigError, match="the values 0, 1, 2, but 2 names"):
        begin(classes=("background", "bolt"))


def test_values_that_are_no_ids_are_told_as_they_are(tmp_path):
    save_picture(tmp_path / "data/images/a.png")
    save_mask(tmp_path / "data/masks/a.png", mask_of(1).astype(np.uint16) * 600)

    with pytest.raises(
        ConfigError, match="hold the values 0, 600, which are no ids from 0 on.*--mask-values 0 0 600 1"
    ):
        begin(classes=())


def test_values_that_are_no_ids_are_classes_as_they_are_said_to_be(tmp_path):
    for number in range(8):
        save_picture(tmp_path / f"data/images/{number}.png")
        save_mask(tmp_path / f"data/masks/{number}.png", np.array([0, 85, 170, 255], np.uint8)[mask_of(1 + number % 3)])

    with pytest.raises(ConfigError, match=r"--mask-values 0 0 85 1 170 2 --classes 'background' 'NAME1' 'NAME2' \(255"):
        begin(classes=())
    with pytest.raises(ConfigError, match="by mask_values the classes 0, 1, 2, but 2 names are given"):
        begin(classes=("background", "bolt"), mask_values={85: 1, 170: 2})
    begin(mask_values={85: 1, 170: 2})

    assert ids_in() == [0, 1, 2, 255] and values("ingest-train")["mask_values"] == {85: 1, 170: 2}
    begin(mask_values={85: 1, 170: 2, 255: 0}, void="background", out="other")
    assert ids_in("other") == [0, 1, 2] and values("ingest-test", "other")["void"] == "background"


def ids_in(out="configs/data"):
    """Class ids of all masks, as they would be read."""
    found: set[int] = set()
    for split in ("train", "validation", "test"):
        config = IngestConfig.model_validate(values(f"ingest-{split}", out))
        source = open_source(config)
        masks = [source.read(entry).mask for entry in listed(source, config).to_pylist()]
        found.update(one for mask in masks if mask is not None for one in mask.reshape(-1).tolist())
    return sorted(found)


def test_greys_with_three_channels_are_ids_and_palettes_are_colours_where_that_is_said(tmp_path):
    for number in range(8):
        save_picture(tmp_path / f"data/images/{number}.png")
        save_picture(tmp_path / f"data/masks/{number}.png", np.dstack([mask_of(1 + number % 2)] * 3))

    with pytest.raises(ConfigError, match="if these greys are class ids, say --mask-kind ids"):
        begin(classes=())
    begin(mask_kind="ids")
    assert ids_in() == [0, 1, 2]

    for number in range(8):
        picture = Image.fromarray(mask_of(1 + number % 2) + np.uint8(3))
        picture.putpalette(bytes(range(12)) + bytes([255, 0, 0, 0, 255, 0]))  # of 4 and 5
        picture.save(tmp_path / f"data/masks/{number}.png")
    named = ("background #090a0b", "bolt #ff0000", "nut #00ff00")
    begin(mask_kind="colours", classes=named, out="other")
    assert ids_in("other") == [0, 1, 2]


def test_colours_that_are_half_transparent_or_unknown_are_classes_as_they_are_said_to_be(tmp_path):
    colours = np.array([[0, 0, 0, 255], [255, 0, 0, 255], [255, 0, 0, 128], [255, 255, 255, 255]], np.uint8)
    (tmp_path / "data/masks").mkdir(parents=True)
    for number in range(8):
        save_picture(tmp_path / f"data/images/{number}.png")
        Image.fromarray(colours[mask_of(1 + number % 3).astype(int)]).save(tmp_path / f"data/masks/{number}.png")

    named = ("background #000000", "bolt #ff0000", "nut #ff000080")
    with pytest.raises(ConfigError, match=r"no class's: #ffffff .* --mask-colours '#ffffff' 255 where nobody knows"):
        begin(classes=named)
    begin(classes=named, mask_colours={"#FFFFFF": 255})

    assert ids_in() == [0, 1, 2, 255]
    palette = yaml.safe_load(Path("configs/data/labels.yaml").read_text())["palette"]
    assert palette[1] == [255, 0, 0] and palette[2] not in palette[:2]
    with pytest.raises(ConfigError, match="mask_colours: 'white' is no colour"):
        begin(classes=named, mask_colours={"white": 255}, overwrite=True)
    with pytest.raises(ConfigError, match="mask_colours: only for dataset folder, huggingface, not labelme"):
        save_labelme(tmp_path / "drawn", "a", [shape("dog", box(1, 1, 3, 3))])
        begin(root="drawn", classes=(), mask_colours={"#ffffff": 255})


def test_pictures_without_masks_are_not_held_out(tmp_path, monkeypatch):
    save_ids(tmp_path / "data", 20, without=40)
    save_mask(tmp_path / "data/masks/of nothing.png", mask_of(1))
    said: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    monkeypatch.setattr(log, "handlers", [handler])

    begin()

    assert len([one for one in said if "belong to no picture" in one]) == 1
    plans = {one: IngestConfig.model_validate(values(f"ingest-{one}")) for one in ("train", "validation", "test")}
    masks = {one: listed(open_source(config), config)["mask"].to_pylist() for one, config in plans.items()}
    assert masks["train"].count("") == 40 and "" not in [*masks["validation"], *masks["test"]]
    assert sum(map(len, masks.values())) == 60


def test_names_of_pictures_may_have_endings_of_their_own(tmp_path):
    for number in range(8):
        save_picture(tmp_path / f"data/images/{number}_rgb.png")
        save_mask(tmp_path / f"data/masks/{number}_seg.png", mask_of(1 + number % 2))

    begin(image_suffix="_rgb")

    assert values("ingest-train")["folder_layout"]["mask_suffix"] == "_seg" and ids_in() == [0, 1, 2]


def test_masks_of_0_and_255_are_one_class(tmp_path):
    for number in range(8):
        save_picture(tmp_path / f"data/images/{number}.png")
        save_mask(tmp_path / f"data/masks/{number}.png", mask_of(255))

    begin(classes=("background", "cell"))

    assert values("ingest-train")["mask_values"] == {255: 1}
    begin(classes=(), overwrite=True)  # with the label space of the first time
    assert values("ingest-train")["mask_values"] == {255: 1}
    begin(classes=(), labels="configs/data/labels.yaml", out="other")
    assert values("ingest-train", "other")["mask_values"] == {255: 1}


def test_on_a_terminal_each_class_is_asked_for_until_it_has_a_name(tmp_path, monkeypatch):
    for number in range(8):
        save_picture(tmp_path / f"data/images/{number}.png")
        save_mask(tmp_path / f"data/masks/{number}.png", np.array([0, 85, 170], np.uint8)[mask_of(1 + number % 2)])
    answers = iter(["data", "", "", "bolt", " nut "])
    asked: list[str] = []
    monkeypatch.setattr("jobs._classes.is_asked", lambda: True)
    monkeypatch.setattr("jobs.start.is_asked", lambda: True)

    def answered(question: str) -> str:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr("builtins.input", answered)

    begin(root="", classes=())

    assert asked[1:3] == ["Name of value 0 [background]: ", "Name of value 85: "] and asked[2] == asked[3]
    assert yaml.safe_load(Path("configs/data/labels.yaml").read_text())["classes"] == ["background", "bolt", "nut"]
    assert values("ingest-train")["mask_values"] == {0: 0, 85: 1, 170: 2}


def test_labels_of_labelme_are_the_classes(tmp_path):
    for number in range(4):
        save_labelme(tmp_path / "data", f"{number}", [shape("dog", box(1, 1, 3, 3)), shape("car", box(4, 1, 6, 3))])

    begin(classes=())

    assert yaml.safe_load(Path("configs/data/labels.yaml").read_text())["classes"] == ["background", "car", "dog"]


def test_nothing_is_written_over_and_nothing_waits_for_an_answer(tmp_path):
    save_ids(tmp_path / "data")
    begin()

    with pytest.raises(ConfigError, match="configs/data holds files already; say --out ANOTHER"):
        begin()
    begin(overwrite=True)
    with pytest.raises(ConfigError, match="labels.yaml is a file; name a folder"):
        begin(out="configs/data/labels.yaml")
    with pytest.raises(ConfigError, match="root: give the folder of your pictures"):
        begin(root="")
    with pytest.raises(ConfigError, match="UniDiffuser's network does not fit 1 GPU of 8 GiB"):
        begin(gpus=1, gpu_gib=8, way="weights", overwrite=True)


def test_what_is_transparent_in_masks_is_background(tmp_path):
    for number in range(8):
        save_picture(tmp_path / f"data/images/{number}.png")
        colours = np.array([[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 255]], np.uint8)
        path = tmp_path / f"data/masks/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(colours[mask_of(1, 2).astype(int)]).save(path)

    with pytest.raises(ConfigError, match=r"--classes 'background transparent' 'NAME1 #"):
        begin(classes=())
    begin(classes=("background transparent", "bolt #000000", "nut #ff0000"))
    with pytest.raises(ConfigError, match="transparent is the background; name it first"):
        begin(classes=("bolt #000000", "background transparent", "nut #ff0000"), overwrite=True)
    with pytest.raises(ConfigError, match="#ff0000 is the colour of two classes"):
        begin(classes=("bolt #000000", "cut #ff0000", "nut #ff0000"), overwrite=True)

    assert values("ingest-train")["mask_colours"] == {"transparent": 0}
    config = IngestConfig.model_validate(values("ingest-train"))
    source = open_source(config)
    found = source.read(listed(source, config).to_pylist()[0]).mask
    assert found is not None and sorted(set(found.reshape(-1).tolist())) == [0, 1, 2]


def test_colours_that_smoothing_made_are_not_asked_names_for(tmp_path):
    save_ids(tmp_path / "data")
    many = np.arange(300).reshape(15, 20)
    Image.fromarray(np.stack([many % 251, many, many * 0], -1).astype(np.uint8)).save(tmp_path / "data/masks/0.png")
    for number in range(1, 8):
        (tmp_path / f"data/masks/{number}.png").write_bytes((tmp_path / "data/masks/0.png").read_bytes())

    with pytest.raises(ConfigError, match="so many come from scaling, smoothing or a lossy format"):
        begin(classes=())


def test_too_few_pictures_are_told_before_anything_is_written(tmp_path):
    save_ids(tmp_path / "data", 1)

    with pytest.raises(DataError, match="so few that none falls into the part"):
        begin()

    assert not any(Path("configs/data").iterdir()), (
        "classes without what was said of values and colours mean another thing"
    )


def test_few_masks_are_told_by_part_and_none_in_a_part_is_refused(tmp_path, caplog):
    save_ids(tmp_path / "data", 8, without=4)
    begin()
    assert re.search(r"few: \d to train on, \d to choose on, \d to test on; .* fewer than 30", caplog.text)

    save_ids(tmp_path / "more", 6)
    alone = [number for number in range(6) if 0 <= place_of(str(number)) < 50]
    for number in alone:
        (tmp_path / f"more/masks/{number}.png").unlink()
    with pytest.raises(DataError, match=r"no mask falls into the part for train \(labelled pictures: 0 to train on"):
        begin(root="more", out="other")


def test_captions_of_pictures_without_masks_alone_are_taken_and_classes_that_none_names_told(tmp_path, caplog):
    save_ids(tmp_path / "data", 8, without=4)
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({str(number): "a bolt" for number in range(8, 12)}))

    begin(captions=str(path))

    assert "no caption names nut (1 of 2 classes)" in caplog.text
    assert values("ingest-test")["captions"] == str(path) and Path("configs/data/caption-validation.yaml").exists()


def test_captions_of_a_split_alone_are_left_out_for_the_others(tmp_path):
    for split in ("train", "val"):
        for number in range(8):
            save_picture(tmp_path / f"data/images/{split}/{split}{number}.jpg")
            save_lines(tmp_path / f"data/labels/{split}/{split}{number}.txt", ["0 0.1 0.1 0.5 0.1 0.5 0.5"])
    save_lines(tmp_path / "data/data.yaml", ["names: [person, dog]", "train: images/train", "val: images/val"])
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({f"train{number}": "a dog" for number in range(8)}))

    begin(classes=(), captions=str(path))

    assert "captions" in values("ingest-train") and "captions" not in values("ingest-validation")
    assert values("encode-validation")["pairs"] == ["runs/data-validation-captioned"]


def test_of_yolo_the_pictures_that_are_held_out_already_are_judged_on(tmp_path):
    for split in ("train", "val"):
        for number in range(8):
            save_picture(tmp_path / f"data/images/{split}/{number}.jpg")
            save_lines(tmp_path / f"data/labels/{split}/{number}.txt", ["0 0.1 0.1 0.5 0.1 0.5 0.5"])
    facts = ["names: [person, dog]", "train: images/train", "val: images/val"]
    save_lines(tmp_path / "data/data.yaml", facts)

    begin(classes=())

    wheres = [values(f"ingest-{one}") for one in ("train", "validation", "test")]
    assert [(one["split"], one.get("part")) for one in wheres] == [("train", None), ("val", "0:50"), ("val", "50:100")]
    begin(classes=("background", "person", "dog"), out="named")
    assert values("ingest-train", "named")["labels"] == "named/labels.yaml"


def test_commands_can_be_copied_whatever_the_names(tmp_path, capsys):
    save_ids(tmp_path / "data")

    begin(name="my set", out="my configs")

    told = capsys.readouterr().out
    assert "jobs.ingest 'my configs/ingest-train.yaml'" in told and "--pairs 'runs/my set-synthetic'" in told
