"""The ingest job: a real tree in, pairs, errors and counts out, in as many starts as it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from models.labels import VOC, LabelSpace
from pipeline.base.errors import ConfigError, DataError
from pipeline.datasets.parts import place_of
from pipeline.datasets.source import entry_table
from pipeline.ingest import IngestConfig, captioned_of, find_todo, ingest, listed, look, open_source, plan_of
from pipeline.tables.conform import conform
from pipeline.tables.ids import real_pair_id
from pipeline.tables.label_space import load_labels
from pipeline.tables.manifest import ClassShare, Manifest
from pipeline.tables.rows import left_out, read_columns, read_shards
from pipeline.tables.schema import ERROR
from pipeline.tables.shards import FAILED, list_shards, write_table
from pipeline.verify import verify
from tests.pipeline.datasets.trees import (
    mask_of,
    picture,
    save_colour_mask,
    save_json,
    save_mask,
    save_picture,
    save_voc,
)

FOLDER = {"dataset": "folder", "labels": "voc", "name": "mine"}


def save_folder(root, num):
    for number in range(num):
        save_picture(root / f"images/{number}.png")
        save_mask(root / f"masks/{number}.png", mask_of(1 + number % 20))
    return str(root)


def config(tmp_path, **settings):
    return IngestConfig(**{"run": "real", "runs": str(tmp_path / "runs"), "root": str(tmp_path), **settings})


@pytest.mark.ray
def test_ingest_resume_and_mend(tmp_path, ray_session):
    tree = save_voc(tmp_path)
    bad = tree / "VOC2012/SegmentationClass/2007_000001.png"
    good = bad.read_bytes()
    save_colour_mask(bad)
    sbd = str(tmp_path / "VOCaug/dataset")
    settings = {"dataset": "voc", "root": str(tree), "split": "trainaug", "sbd": sbd, "rows_per_shard": 2}

    first = ingest(config(tmp_path, pairs=2, **settings))
    whole = ingest(config(tmp_path, **settings))

    assert first.num_pairs + first.num_errors == 2
    assert (whole.num_pairs, whole.num_errors, whole.errors_by_reason) == (3, 1, {"wrong_mask": 1})
    assert whole.classes[0] == ClassShare(pixels=3 * 52, images=3) and whole.classes[13] == ClassShare(8, 1)
    folder = str(tmp_path / "runs/real")
    rows = read_shards([folder]).sort_by("key").to_pylist()
    assert [row["key"] for row in rows] == ["2008_000002", "2008_000003", "2008_000004"]
    assert {(row["dataset"], row["split"], row["origin"]) for row in rows} == {("voc", "trainaug", "real")}
    assert rows[0]["image"]["bytes"] == (tree / "VOC2012/JPEGImages/2008_000002.jpg").read_bytes()
    assert load_labels(folder).name == "voc"
    (error,) = (detail for path in list_shards(folder, FAILED) for detail in read_columns(path)["detail"].to_pylist())
    assert "2007_000001.png" in error and "mode RGB" in error

    bad.write_bytes(good)
    mended = ingest(config(tmp_path, retry_errors=True, **settings))

    assert (mended.num_pairs, mended.num_errors, mended.num_duplicates) == (4, 0, 0)
    assert left_out(folder) == {}, "what was mended is not named again"


def test_a_pair_that_failed_twice_is_left_out_once_and_one_that_was_read_later_is_not(tmp_path):
    errors = {"pair_id": ["a", "b"], "reason": ["wrong_mask"] * 2, "detail": ["first a", "first b"]}
    for tried in (errors, {**errors, "pair_id": ["b", "c"]}):
        write_table(conform(pa.table(tried), ERROR), f"{tmp_path}/errors")
    write_table(pa.table({"pair_id": ["a"]}), f"{tmp_path}/shards")

    assert list(left_out(str(tmp_path))) == ["b", "c"]


def test_part_of_a_set_is_a_sample_that_grows(tmp_path):
    source = open_source(config(tmp_path, root=save_folder(tmp_path, 40), **FOLDER))
    entries = source.entries()

    some, more = (plan_of(entries, VOC, config(tmp_path, pairs=pairs, **FOLDER))["key"].to_pylist() for pairs in (5, 9))

    assert more[:5] == some and some != entries["key"].to_pylist()[:5]


def test_ids_are_of_the_data_set_the_split_and_the_name(tmp_path):
    entries = open_source(config(tmp_path, root=save_folder(tmp_path, 3), **FOLDER)).entries()

    ids = [
        set(plan_of(entries, VOC, config(tmp_path, **{**FOLDER, **other}))["pair_id"].to_pylist())
        for other in ({}, {"split": "val"}, {"name": "theirs"}, {"run": "again", "root": "elsewhere"})
    ]

    assert ids[0] == ids[3] and not ids[0] & ids[1] and not ids[0] & ids[2]


@pytest.mark.parametrize("name", ["", "mine"])
def test_pairs_of_the_two_built_in_sets_never_share_an_id(tmp_path, name):
    ids = []
    for dataset in ("builtin", "builtin2"):
        for split, seed, size_px in (("train", 0, 64), ("test", 0, 64), ("train", 1, 64), ("train", 0, 32)):
            made = {"dataset": dataset, "split": split, "seed": seed, "size_px": size_px, "root": "", "pairs": 50}
            chosen = config(tmp_path, name=name, **made)
            source = open_source(chosen, chosen.seed)
            plan = plan_of(source.entries(), source.labels, chosen)
            assert plan["key"].to_pylist() == source.entries()["key"].to_pylist()
            ids += plan["pair_id"].to_pylist()

    assert len(set(ids)) == len(ids) == 8 * 50
    # As they were before there was a second set.
    assert real_pair_id(f"{name or 'builtin'}/train/0/64", "0") == ids[0]


def test_size_px_is_of_the_built_in_sets_alone(tmp_path):
    with pytest.raises(ConfigError, match="size_px: only for dataset builtin, builtin2, not voc; leave it out"):
        open_source(config(tmp_path, dataset="voc", size_px=128))


def test_a_set_of_which_nothing_can_be_read_is_told_at_once(tmp_path):
    root = save_folder(tmp_path, 20)
    for number in range(20):
        save_colour_mask(tmp_path / f"masks/{number}.png")
    chosen = config(tmp_path, root=root, **FOLDER)

    with pytest.raises(
        DataError, match=r"none of 16 pairs that were tried first can be read. in 16 of 16 masks .*#818181 .960 pixels"
    ):
        find_todo(open_source(chosen), chosen, str(tmp_path / "runs/real"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dataset": "voc", "root": ""}, "root: dataset voc needs the folder that it lies in"),
        ({"dataset": "folder", "labels": "voc"}, "name: give the data in .* a name; ids and exports use it"),
        ({"dataset": "folder", "name": "mine"}, "labels: dataset folder needs to know its classes"),
        ({**FOLDER, "mask_values": {-1: 0}}, "raw values and class ids are 0 and above"),
        ({**FOLDER, "mask_values": {1: 65537}}, "raw values and class ids are 0 and above, to 65535"),
        ({"dataset": "huggingface", "labels": "voc", "root": "s3://a/b"}, "is a URL; give a name on the hub, or"),
        ({"dataset": "folder", "name": "mine", "labels": "pascal"}, "label space 'pascal': cannot read it"),
        ({"dataset": "ade20k", "crowd": "paint"}, "crowd: only for dataset coco, not ade20k; leave it out"),
        ({"dataset": "voc", "mask_values": {255: 1}}, "mask_values: only for dataset folder, huggingface, not voc"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, told):
    with pytest.raises(ConfigError, match=told):
        open_source(config(tmp_path, **settings))


def test_a_picture_of_voc_is_the_same_pair_in_every_list_that_names_it(tmp_path):
    tree = save_voc(tmp_path)
    ids = {}
    for split in ("train", "trainaug"):
        chosen = config(tmp_path, dataset="voc", root=str(tree), split=split, sbd=str(tmp_path / "VOCaug/dataset"))
        plan = plan_of(open_source(chosen).entries(), VOC, chosen)
        ids[split] = dict(zip(plan["key"].to_pylist(), plan["pair_id"].to_pylist(), strict=True))

    assert ids["train"].items() <= ids["trainaug"].items()


def test_captions_of_another_part_of_the_set_alone_are_captions(tmp_path):
    captions = save_json(tmp_path / "captions.json", {"0": "a text"})
    chosen = config(tmp_path, root=save_folder(tmp_path, 12), captions=str(captions), **FOLDER)
    source = open_source(chosen)
    place = place_of("0")
    within, without = (
        chosen.model_copy(update={"part": part}) for part in (f"0:{place + 0.01}", f"{place + 0.01}:100")
    )

    assert captioned_of(listed(source, within)) == 1 and captioned_of(listed(source, without)) == 0


def test_captions_of_other_pictures_are_told(tmp_path):
    captions = save_json(tmp_path / "captions.json", {"nobody": "a text"})
    chosen = config(tmp_path, root=save_folder(tmp_path, 3), captions=str(captions), **FOLDER)

    with pytest.raises(DataError, match=r"none of its names belongs to a picture of the split .* \(named like 0\)"):
        find_todo(open_source(chosen), chosen, str(tmp_path / "runs/real"))


def test_annotations_in_cocos_form_that_are_not_cocos_need_a_name(tmp_path):
    entries = open_source(config(tmp_path, root=save_folder(tmp_path, 1), **FOLDER)).entries()

    with pytest.raises(ConfigError, match="name: these annotations are not COCO's"):
        plan_of(entries, VOC, config(tmp_path, dataset="coco"))


def test_two_pairs_of_one_name_are_refused(tmp_path):
    entries = open_source(config(tmp_path, root=save_folder(tmp_path, 3), **FOLDER)).entries()

    with pytest.raises(DataError, match="two pairs are called 0; rename one"):
        plan_of(entries.take(np.array([0, 0, 1])), VOC, config(tmp_path, **FOLDER))


def test_what_is_to_be_told_of_the_data_comes_back_from_the_task_that_finds_it(tmp_path):
    root = save_folder(tmp_path, 2)
    (tmp_path / "images/notes.txt").write_text("")
    frames = [Image.fromarray(picture()), Image.fromarray(picture(9))]
    frames[0].save(tmp_path / "images/2.gif", save_all=True, append_images=frames[1:])
    save_mask(tmp_path / "masks/2.png", mask_of(1))
    chosen = config(tmp_path, root=root, **FOLDER)

    _, (*_, warnings) = find_todo(open_source(chosen), chosen, str(tmp_path / "runs/real"))

    assert warnings == [
        f"{root}/images: 1 files were passed over: 1 .txt",
        f"picture {root}/images/2.gif holds 2 frames: the first is taken, here and of others like it",
    ]


@pytest.mark.parametrize(("values", "is_told"), [((0, 2, 13, 255), True), ((7, 11, 26, 0), False)])
def test_train_ids_under_the_name_of_label_ids_are_told(tmp_path, values, is_told):
    stem = "train/ulm/ulm_000000_000019"
    save_picture(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", picture(0, 4, 1))
    save_mask(tmp_path / f"gtFine/{stem}_gtFine_labelIds.png", np.array([values], np.uint8))
    chosen = config(tmp_path, dataset="cityscapes", void="background")

    _, (*_, warnings) = find_todo(open_source(chosen), chosen, str(tmp_path / "runs/real"))

    assert [text for text in warnings if "75 % of the pixels" in text and "hold train ids?" in text] == warnings
    assert bool(warnings) == is_told


@pytest.mark.ray
def test_a_few_masks_and_many_pictures(tmp_path, ray_session):
    save_folder(tmp_path / "mine", 2)
    for number in range(2, 5):
        save_picture(tmp_path / f"mine/images/{number}.png", picture(number))
    settings = {"root": str(tmp_path / "mine"), "captions": str(save_json(tmp_path / "c.json", {"4": "a cat"}))}

    strict = ingest(config(tmp_path, run="strict", **settings, **FOLDER))
    manifest = ingest(config(tmp_path, labelled="some", **settings, **FOLDER))

    assert strict.errors_by_reason == {"missing_file": 3} and strict.num_unlabelled == 0
    assert (manifest.num_pairs, manifest.num_unlabelled, manifest.num_errors) == (5, 3, 0)
    assert manifest.classes[0].images == 2
    folder = str(tmp_path / "runs/real")
    assert verify(folder, deep=True) == [] and Manifest.load(f"{folder}/manifest.json") == manifest
    rows = {row["key"]: row for row in read_shards([folder]).to_pylist()}
    assert rows["4"]["mask"] is None and rows["4"]["class_ids"] == [] and rows["4"]["captions"] == ["a cat"]
    assert rows["1"]["mask"]["bytes"] and rows["4"]["image"]["bytes"]


def todo_of(chosen):
    return find_todo(open_source(chosen, chosen.seed), chosen, str(chosen.folder))


SIGNS = "name: signs\nclasses: [background, stop, yield]\n"


def save_coloured(root, num=3):
    labels = LabelSpace.custom("signs", ("stop", "yield"))
    for number in range(num):
        save_picture(root / f"images/{number}.png")
        save_picture(root / f"masks/{number}.png", labels.colours(mask_of(1 + number % 2)))
    return labels


def test_masks_in_colours_are_read_by_the_stated_palette_or_all_colours_are_asked_for_at_once(tmp_path):
    labels = save_coloured(tmp_path)
    file = tmp_path / "signs.yaml"
    settings = {"dataset": "folder", "name": "signs", "labels": str(file)}
    file.write_text(SIGNS)

    with pytest.raises(
        DataError, match=r"in 3 of 3 masks.*#000000 \(156 pixels\), #800000 \(16 .*#008000 \(8 .*palette"
    ):
        todo_of(config(tmp_path, **settings))

    file.write_text(SIGNS + f"palette: {[list(colour) for colour in labels.palette]}\n")
    assert todo_of(config(tmp_path, **settings))[0].num_rows == 3
    with pytest.raises(ConfigError, match="mask_colours: #ffffff is 7, but signs has class ids 0 to 2"):
        open_source(config(tmp_path, **settings, mask_colours={"#ffffff": 7}))
    with pytest.raises(ConfigError, match="mask_colours: 'red' is no colour"):
        open_source(config(tmp_path, **settings, mask_colours={"red": 1}))


def test_a_forgotten_colour_is_told_before_all_are_read(tmp_path, caplog):
    labels = save_coloured(tmp_path, 4)
    palette = [list(colour) for colour in labels.palette]
    palette[2] = [0, 130, 0]
    (tmp_path / "signs.yaml").write_text(SIGNS + f"palette: {palette}\n")

    _, told = todo_of(config(tmp_path, dataset="folder", name="signs", labels=str(tmp_path / "signs.yaml")))

    assert any(
        "in 2 of 4 masks" in text and "#008000 (16 pixels, nearest is yield #008200)" in text for text in told[-1]
    )


def test_a_look_says_what_was_understood_and_reads_no_more(tmp_path):
    save_folder(tmp_path, 40)
    (tmp_path / "masks/0.png").write_bytes(b"broken")
    settings = {**FOLDER, "look": 4}

    path, row_bytes = look(config(tmp_path, **settings))
    page = Path(path).read_text()

    assert page.count("data:image/png;base64") == 2 * 3 and "3 of 40 pairs; 1 could not be" in page
    assert (tmp_path / "images/1.png").stat().st_size < row_bytes < 10_000
    assert "masks/0.png" in page and "aeroplane" in page
    assert not (tmp_path / "runs/real/shards").exists() and not (tmp_path / "runs/real/config.yaml").exists()


def test_parts_of_a_set_hold_each_picture_once_and_keep_it_when_others_come(tmp_path):
    def parts(root):
        return [
            set(todo_of(config(tmp_path, root=root, part=part, **FOLDER))[0]["key"].to_pylist())
            for part in ("0:70", "70:85", "85:100")
        ]

    few = parts(save_folder(tmp_path, 30))
    more = parts(save_folder(tmp_path, 60))

    assert sum(map(len, few)) == 30 and len(set().union(*few)) == 30
    assert all(one <= other for one, other in zip(few, more, strict=True))
    for wrong in ("80", "80:20", "0:101", "a:b"):
        with pytest.raises(ValueError, match="is no part; write START:STOP in per cent"):
            config(tmp_path, part=wrong, **FOLDER)
    with pytest.raises(ConfigError, match="built-in sets have splits"):
        todo_of(IngestConfig(run="a", runs=str(tmp_path), dataset="builtin", part="0:50"))


def test_rows_of_two_subsets_of_a_hub_set_are_two_pairs():
    def ids(**settings):
        config = IngestConfig(run="x", dataset="huggingface", root="someone/set", labels="voc", **settings)
        return plan_of(entry_table([("0", "0", "0", [])]), VOC, config)["pair_id"].to_pylist()

    plain, named = ids(), ids(name="mine")
    assert plain != ids(columns={"subset": "a"}) != ids(columns={"subset": "b"})
    assert named == ids(name="mine", columns={"subset": "a"}), "ids of named sets stay"
