"""A plan of prompts: what it is made of, and that balancing asks for rare classes as often as it says."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from models.labels import GARMENTS, LabelSpace
from pipeline.base.command_line import parse
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.places import as_given
from pipeline.plan_prompts import PromptsConfig, plan_prompts
from pipeline.prompts.read import read_prompts
from pipeline.prompts.sources import add_up, fill, from_captions, from_file, from_templates
from pipeline.tables.schema import PAIR
from pipeline.tables.selection import write_selection
from pipeline.tables.shards import write_table

STREET = LabelSpace.custom("street", ("aeroplane", "bus", "traffic light", "hour glass", "unicorn"))


def save_set(folder, rows: Sequence[tuple[str | None, list[str] | None, list[int]]]) -> str:
    """A pair set with captions and masks' classes, but without pictures."""
    picture = {"bytes": b"", "path": None}
    values = [
        {
            "pair_id": f"{number:02}", "prompt": prompt, "captions": captions, "class_ids": class_ids,
            "class_pixels": [1] * len(class_ids), "image": picture, "mask": picture, "height": 1, "width": 1,
            "origin": "real",
        }
        for number, (prompt, captions, class_ids) in enumerate(rows)
    ]  # fmt: skip
    columns = [pa.array([row.get(field.name) for row in values], field.type) for field in PAIR]
    write_table(pa.table(columns, schema=PAIR), f"{folder}/shards")
    STREET.save(folder / "label_space.json")
    return str(folder)


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "set").mkdir()
    rows = [
        ("a street", ["a street", "a bus"], [0, 2, 255]),
        ("a street", None, [0, 2, 3]),
        (None, ["a lamp ", " "], [0, 3]),
        ("  ", None, [1]),
    ]
    return save_set(tmp_path / "set", rows)


def config(tmp_path, **values) -> PromptsConfig:
    return PromptsConfig(run="plan", runs=str(tmp_path / "runs"), **values)


def short(rows) -> list[tuple[str, float, list[int] | None, str]]:
    return [tuple(row.values()) for row in add_up(list(rows)).to_pylist()]


def test_captions_ask_for_what_all_their_masks_show(tmp_path, pairs):
    assert short(from_captions([str(pairs)], STREET, all_of_them=False, append_classes=False)) == [
        ("a street", 2.0, [2], "caption"),
        ("a lamp", 1.0, [3], "caption"),
        ("", 1.0, [1], "caption"),
    ]
    rows = short(from_captions([str(pairs)], STREET, all_of_them=True, append_classes=True))
    assert rows == [
        ("a street; bus", 1.0, [2], "caption; classes"),
        ("a bus; bus", 1.0, [2], "caption; classes"),
        ("a street; bus, traffic light", 1.0, [2, 3], "caption; classes"),
        ("a lamp; traffic light", 1.0, [3], "caption; classes"),
        ("", 1.0, [1], "caption"),
    ]


def test_templates_name_every_class_and_every_two(tmp_path):
    templates = ("A {a} at night", "a {b} and a {a}")
    rows = short(from_templates(templates, (), STREET))
    assert [row[0] for row in rows[:5]] == [
        "An aeroplane at night", "A bus at night", "A traffic light at night", "An hour glass at night",
        "A unicorn at night",
    ]  # fmt: skip
    assert len(rows) == 5 + 10 and rows[5] == ("a bus and an aeroplane", 1.0, [1, 2], "template")
    assert not any("background" in row[0] for row in rows)
    assert [row[0] for row in short(from_templates(templates, ("unicorn", "bus"), STREET))][2:] == [
        "a unicorn and a bus"
    ]
    assert fill("a photo of {a}", ["dining table"]) == "a photo of dining table"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no prompts to plan with: give `pairs`, `templates` or a `file`"),
        ({"templates": ("a {a}",)}, "templates need a label space"),
        ({"templates": ("a dog",), "labels": "voc"}, "'a dog' should have the place {a}"),
        ({"templates": ("a {class}",), "labels": "voc"}, "should have the place {a}"),
        ({"templates": ("a {b}",), "labels": "voc"}, "should have the place {a}"),
        ({"templates": ("a {a}",), "labels": "voc", "template_classes": ("bycicle",)}, "did you mean bicycle"),
        ({"templates": ("a {a}",), "labels": "voc", "template_classes": ("background",)}, "has no class 'background'"),
        ({"labels": "nowhere.yaml", "templates": ("a {a}",)}, "labels: label space '.*nowhere.yaml': cannot read it"),
    ],
)
def test_mistakes_are_explained(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        plan_prompts(config(tmp_path, **values))


def test_wrong_sets_are_explained(tmp_path, pairs):
    with pytest.raises(ConfigError, match="labels: voc has other classes than"):
        plan_prompts(config(tmp_path, pairs=[pairs], labels="voc"))
    file = tmp_path / "street.yaml"
    file.write_text(yaml.safe_dump({"name": "street", "classes": list(STREET.classes)}))
    plan_prompts(config(tmp_path, pairs=[pairs], labels=str(file)))
    file.write_text(yaml.safe_dump({"name": "street", "classes": list(STREET.classes), "ignore_index": 254}))
    with pytest.raises(ConfigError, match="street.yaml has other .* or another ignore index or meaning of 0; leave"):
        plan_prompts(config(tmp_path, pairs=[pairs], labels=str(file)))
    with pytest.raises(DataError, match="nowhere/label_space.json: missing"):
        plan_prompts(config(tmp_path, pairs=[str(tmp_path / "nowhere")]))
    (tmp_path / "mute").mkdir()
    mute = save_set(tmp_path / "mute", [(None, None, [1]), ("", [], [2])])
    with pytest.raises(DataError, match="none of its 2 pairs has a caption; make them with jobs.caption first"):
        plan_prompts(config(tmp_path, pairs=[pairs, mute]))


def test_classes_of_a_file_are_its_own_or_those_that_it_names(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "two buses", "weight": 3}\n{"prompt": "a jet", "class_ids": [1]}\n{"prompt": "fog"}\n')
    known = [("two buses", 3.0, [2], "file"), ("a jet", 1.0, [1], "file"), ("fog", 1.0, [], "file")]
    assert short(from_file(str(path), STREET)) == known
    assert [row[2] for row in short(from_file(str(path), None))] == [None, [1], None]


def test_a_plan_is_written_balanced_explained_and_read_by_generate(tmp_path, pairs, capsys):
    (tmp_path / "real").mkdir()
    real = save_set(tmp_path / "real", [("", None, [0, 2])] * 18 + [("", None, [3]), ("", None, [1, 2])])
    given = config(tmp_path, pairs=[pairs], balance=real, target_share=0.3, max_weight=4)
    plan = plan_prompts(given)
    folder = tmp_path / "runs" / "plan"
    assert pq.read_table(folder / "prompts.parquet").equals(plan)
    assert plan["prompt"].to_pylist() == ["a street", "a lamp"]
    assert read_prompts(str(folder / "prompts.parquet")).equals(plan.select(["prompt", "weight", "class_ids"]))
    report = json.loads((folder / "prompts.json").read_text())
    assert (report["prompts"], report["empty_captions_dropped"]) == (2, 1)
    classes = {one["name"]: one for one in report["balance"]["rare_classes"]}
    assert list(classes) == ["aeroplane", "traffic light", "hour glass", "unicorn"], "the bus is not rare"
    assert classes["traffic light"]["is_reached"] and classes["traffic light"]["share_in_set"] == 1 / 20
    assert classes["unicorn"]["prompts"] == 0 and not classes["unicorn"]["is_reached"]
    told = " ".join(capsys.readouterr().out.split())
    assert "--template-classes aeroplane 'hour glass' unicorn" in told and "4 classes are in less than 0.3" in told
    plan_prompts(given)  # the same again
    with pytest.raises(ConfigError, match=r"max_weight: 4.0 -> 5.0"):
        plan_prompts(given.model_copy(update={"max_weight": 5.0}))


def test_classes_are_counted_in_labelled_pairs_and_in_those_that_a_selection_keeps(tmp_path, pairs):
    (tmp_path / "real").mkdir()
    (tmp_path / "chosen").mkdir()
    real = save_set(tmp_path / "real", [("", None, [0, 2])] * 3 + [("", None, [0, 3])] + [("", None, [])] * 16)
    STREET.save(tmp_path / "chosen" / "label_space.json")
    rows = pa.table({"pair_id": [f"{one:02}" for one in range(20)], "reason": [None, None, *["blurred"] * 18]})
    write_selection(str(tmp_path / "chosen"), real, rows)
    for number, (folder, shares) in enumerate(((real, [0.75, 0.25]), (str(tmp_path / "chosen"), [1.0, 0.0]))):
        given = config(tmp_path, pairs=[pairs], balance=folder, target_share=0.999999999)
        plan_prompts(given.model_copy(update={"run": f"plan-{number}"}))
        report = json.loads((tmp_path / "runs" / f"plan-{number}" / "prompts.json").read_text())
        found = {one["id"]: one["share_in_set"] for one in report["balance"]["rare_classes"]}
        assert [found.get(2, 1.0), found[3]] == shares
    (tmp_path / "bare").mkdir()
    bare = save_set(tmp_path / "bare", [("", None, [])] * 2)
    with pytest.raises(DataError, match="none of its 2 pairs has a mask to balance with; give labelled ones"):
        plan_prompts(config(tmp_path, pairs=[pairs], balance=bare))


def test_the_command_line_takes_lists():
    arguments = ["--run", "a", "--templates", "a {a}", "a {a} and a {b}", "--template-classes", "traffic light", "bus"]
    found = parse(PromptsConfig, [*arguments, "--pairs", "runs/x", "--append-classes", "True"])
    assert found.templates == ("a {a}", "a {a} and a {b}") and found.template_classes == ("traffic light", "bus")
    assert found.append_classes and as_given(found.pairs[0]) == "runs/x"


def test_the_built_in_classes_have_names_that_fill_templates(tmp_path):
    rows = short(from_templates(("a {a}",), (), GARMENTS))
    assert len(rows) == GARMENTS.num_classes


def test_classes_that_the_label_space_does_not_have_are_told(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a bus", "class_ids": [2, 99]}\n')

    with pytest.raises(DataError, match=r"'a bus' asks for \[2, 99\]; label space 'street' has classes 1 to 5"):
        list(from_file(str(path), STREET))


def test_what_a_segmenter_fails_at_is_asked_for_more_often(tmp_path, pairs):
    iou = {name: [0.9] for name in STREET.classes} | {"traffic light": [0.1]}
    (tmp_path / "proof").mkdir()
    (tmp_path / "proof" / "proof.json").write_text(
        json.dumps({"classes": STREET.classes, "sets": [{"name": "real", "iou": iou}]})
    )
    plain = plan_prompts(config(tmp_path, pairs=(pairs,)))
    weights = dict(zip(plain["prompt"].to_pylist(), plain["weight"].to_pylist(), strict=True))
    hard = PromptsConfig(run="hard", runs=str(tmp_path / "runs"), pairs=(pairs,), hardness=str(tmp_path / "proof"))
    found = plan_prompts(hard)
    factors = {row["prompt"]: (row["weight"] / weights[row["prompt"]], row["class_ids"]) for row in found.to_pylist()}
    light = STREET.classes.index("traffic light")
    assert all(factor == 4 for factor, ids in factors.values() if ids == [light])
    assert any(factor < 4 for factor, ids in factors.values() if light not in (ids or ()))
    told = json.loads((tmp_path / "runs" / "hard" / "prompts.json").read_text())["hardness"]["fails"]
    assert next(iter(told)) == "traffic light"
    (tmp_path / "prompts.txt").write_text("a street\n")
    with pytest.raises(ConfigError, match="hardness: name the `labels`"):
        plan_prompts(hard.model_copy(update={"run": "none", "pairs": (), "file": str(tmp_path / "prompts.txt")}))


def test_prompts_of_few_objects_are_taken_alone_where_that_is_asked_for(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a bus\ntwo buses and a bus\na bus left of a traffic light\na street\n")
    masks = save_set(tmp_path / "set", [("a picture", None, [0, 2, 3]), ("a picture", None, [0, 2])])
    values = {"file": str(file), "pairs": (masks,), "labels": masks}
    assert plan_prompts(config(tmp_path, **values))["prompt"].to_pylist()[0] == "a picture"
    found = plan_prompts(config(tmp_path, most_objects=1, **values).model_copy(update={"run": "few"}))
    assert {*found["prompt"].to_pylist()} == {"a picture", "a bus", "a street"}
    assert json.loads((tmp_path / "runs/few/prompts.json").read_text())["of_more_objects_dropped"] == 3
    named = save_set(tmp_path / "named", [("a bus; red", None, [0, 2]), ("a bus, a bus", None, [2]), ("", None, [2])])
    behind = {"pairs": (named,), "append_classes": True, "most_objects": 1}
    found = plan_prompts(config(tmp_path, **behind).model_copy(update={"run": "behind"}))
    assert found["prompt"].to_pylist() == ["a bus; red; bus"], "no bus is counted twice"
    file.write_text("a bus and a bus\n")
    with pytest.raises(ConfigError, match="most_objects: all 1 prompts ask for more than 1"):
        plan_prompts(config(tmp_path, file=str(file), labels=masks, most_objects=1))
    with pytest.raises(ConfigError, match="most_objects: name the `labels`"):
        plan_prompts(config(tmp_path, file=str(file), most_objects=1))
