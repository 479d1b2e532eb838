"""Class names in prompts: whole words, plurals, names of several words, the longest name first."""

from __future__ import annotations

import pytest

from models.labels import GARMENTS, VOC, LabelSpace
from pipeline.prompts.classes import MOST_READ, classes_in_prompt, evenly, never_named, phrases_of

COCO = LabelSpace.named("coco")
STREET = LabelSpace.custom(
    "street", ("person", "traffic light", "dog", "hot dog", "light", "knife", "bus", "baby", "C++ book")
)


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("a traffic light", {"traffic light"}),
        ("two Traffic-Lights, one LIGHT", {"traffic light", "light"}),
        ("a hot dog", {"hot dog"}),
        ("a dog eats hot dogs", {"dog", "hot dog"}),
        ("people wait for buses", {"person", "bus"}),
        ("knives and babies", {"knife", "baby"}),
        ("personal lightning, a busy doghouse", set()),
        ("a c++ book.", {"C++ book"}),
        ("the background", set()),
        ("", set()),
    ],
)
def test_names_in_a_prompt(prompt: str, names: set[str]) -> None:
    assert {STREET.classes[class_id] for class_id in classes_in_prompt(prompt, STREET)} == names


MANY = LabelSpace.custom(
    "many",
    ("trees", "Fire trucks", "people", "leaves", "cherries", "buses", "glasses", "glass", "grass", "toes", "cars"),
)


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("a tree beside a fire truck", {"trees", "Fire trucks"}),
        ("trees and fire-trucks", {"trees", "Fire trucks"}),
        ("a man looks at a person", {"people"}),
        ("a leaf, a cherry, a bus, a van", {"leaves", "cherries", "buses", "cars"}),
        ("a glass", {"glass"}),
        ("two glasses", {"glasses"}),
        ("gras to cactu", set()),
        ("carrot street", set()),
    ],
)
def test_names_that_are_plurals_are_found_in_the_singular(prompt: str, names: set[str]) -> None:
    assert {MANY.classes[class_id] for class_id in classes_in_prompt(prompt, MANY)} == names


def test_plurals_whose_singular_is_another_word_are_found_as_they_are_alone() -> None:
    names = ("glasses", "wine glasses", "shorts", "tights", "overalls", "goods", "woods", "news", "lens", "others")
    labels = LabelSpace.custom("worn", (*names, "leaves", "hgvs"))
    assert classes_in_prompt("a glass of beer, short hair, tight, overall good wood, new len, other", labels) == ()
    assert classes_in_prompt("they leave an hgv", labels) == (), "no verb, no word without a vowel"
    assert classes_in_prompt("a wine glass", labels) == (2,)
    assert classes_in_prompt("; ".join(names), labels) == tuple(range(1, len(names) + 1))


def test_of_many_captions_an_even_part_is_looked_at_for_what_none_names(monkeypatch) -> None:
    some = range(3 * MOST_READ + 1)
    assert (len(evenly(some)), evenly(some)[0]) == (MOST_READ, 0) and evenly(some)[-1] >= 3 * MOST_READ - 4
    assert evenly(range(MOST_READ)) == range(MOST_READ)
    labels = LabelSpace.custom("two", ("dog", "cat"))
    told = never_named(["a dog"] * (MOST_READ + 5), labels)
    assert told.startswith("no caption of 20,000, evenly taken from 20,005, names cat (1 of 2 classes)")
    read: list[str] = []

    def both(text: str, labels: LabelSpace) -> tuple[int, ...]:
        read.append(text)
        return 1, 2

    monkeypatch.setattr("pipeline.prompts.classes.classes_in_prompt", both)
    assert not never_named(["a dog and a cat"] * 9, labels) and len(read) == 1, "no further than needed"


def test_classes_that_no_caption_names_are_told() -> None:
    told = never_named(["a traffic light", "people wait"], STREET)
    assert told.startswith("no caption names dog, hot dog, light, knife, bus, baby, C++ book (7 of 9 classes)")
    assert not never_named([" ".join(STREET.classes)], STREET)


def test_ids_are_ascending_and_unique() -> None:
    assert classes_in_prompt("a boot, a red bag, two shirts and a shirt", GARMENTS) == (1, 7, 8)


@pytest.mark.parametrize("labels", [VOC, GARMENTS], ids=lambda labels: labels.name)
def test_every_class_is_found_by_its_own_name(labels: LabelSpace) -> None:
    for class_id, name in enumerate(labels.classes[1:], start=1):
        assert classes_in_prompt(f"a photo of a {name}", labels) == (class_id,)


def test_names_that_are_no_words_are_known_as_people_write_them():
    found = classes_in_prompt("potted plants on a dining table by the TV monitor", VOC)
    assert [VOC.classes[one] for one in found] == ["diningtable", "pottedplant", "tvmonitor"]
    assert classes_in_prompt("a pottedplant", VOC) == classes_in_prompt("a potted plant", VOC)


@pytest.mark.parametrize(
    ("labels", "prompt", "named"),
    [
        (VOC, "Two men ride bikes past a couch", ["bicycle", "person", "sofa"]),
        (VOC, "children and their puppies by a television", ["dog", "person", "tvmonitor"]),
        (COCO, "a woman with a cellphone, geese and a fridge", ["person", "bird", "cell phone", "refrigerator"]),
        (COCO, "a stuffed bear on a laptop computer", ["laptop", "teddy bear"]),
        (STREET, "a puppy under a stoplight", ["traffic light", "dog"]),
        (GARMENTS, "a man in trousers", ["trousers"]),
    ],
)
def test_other_words_for_common_classes_name_them(labels, prompt, named):
    assert [labels.classes[one] for one in classes_in_prompt(prompt, labels)] == named


def test_a_word_that_is_a_class_itself_means_that_one_alone():
    labels = LabelSpace.custom("mine", ("person", "rider", "sofa", "couch"))
    assert [labels.classes[one] for one in classes_in_prompt("a rider on a couch", labels)] == ["rider", "couch"]


@pytest.mark.parametrize(
    ("captions", "phrases"),
    [
        (["a small white dog on a red couch"], {"dog": "small white dog", "sofa": "red couch"}),
        (["A man riding his old, brown horse."], {"person": "man", "horse": "brown horse"}),
        (["two people at a wooden dining-table"], {"person": "people", "diningtable": "wooden dining-table"}),
        (["a dog", "one muddy dog and a cat"], {"dog": "muddy dog", "cat": "cat"}),
        (["a red car left of a blue car", "a red car and a bus"], {"bus": "bus"}),
        (["ein Hund", "", "nothing"], {}),
    ],
)
def test_what_captions_call_a_class(captions, phrases):
    assert {VOC.classes[one]: text for one, text in phrases_of(captions, VOC).items()} == phrases
