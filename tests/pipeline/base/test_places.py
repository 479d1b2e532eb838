"""Places: paths and URLs are resolved once, when a config is loaded, and still known as they were given."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from pipeline.base.command_line import load, parse
from pipeline.base.config import Config
from pipeline.base.places import LabelsOrPlace, Located, NameOrPlace, Place, Sent, SentFolder, as_given, places


class Part(Config):
    text: Place = "own"


class Whole(Config):
    pairs: tuple[Place, ...]
    sets: dict[str, tuple[Place, ...]] = Field(default_factory=dict)
    part: Part = Field(default_factory=Part)
    bundle: SentFolder = ""
    model: NameOrPlace = "owner/name"
    labels: LabelsOrPlace = "voc"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_paths_become_absolute_and_urls_and_nothing_stay(here: Path) -> None:
    found = parse(Whole, ["--pairs", "a/", "s3://bucket/b", "--part.text", "./c"])

    assert found.pairs == (f"{here}/a", "s3://bucket/b") and found.part.text == f"{here}/c" and found.bundle == ""
    assert [as_given(one) for one in found.pairs] == ["a/", "s3://bucket/b"]


def test_a_home_folder_is_the_users(here: Path) -> None:
    assert Whole(pairs=("~/runs",)).pairs == (os.path.expanduser("~/runs"),)


def test_a_default_is_resolved_too(here: Path) -> None:
    assert Whole(pairs=()).part.text == f"{here}/own"


def test_a_name_is_no_path_unless_it_is_written_like_one_or_there(here: Path) -> None:
    (here / "mine").mkdir()

    found = {text: Whole(pairs=(), model=text).model for text in ("owner/name", "./mine", "mine", "a.yaml")}

    assert found["owner/name"] == "owner/name"
    assert found["./mine"] == found["mine"] == f"{here}/mine" and found["a.yaml"] == f"{here}/a.yaml"


def test_a_label_space_is_meant_also_beside_a_folder_of_its_name(here: Path) -> None:
    (here / "voc").mkdir()

    found = {text: Whole(pairs=(), labels=text).labels for text in ("voc", "mine.yaml", "runs/real")}

    assert found == {"voc": "voc", "mine.yaml": f"{here}/mine.yaml", "runs/real": f"{here}/runs/real"}


def test_every_place_is_found_with_its_key(here: Path) -> None:
    found = Whole(pairs=("a",), sets={"real": ("b", "s3://c")}, bundle="d")

    kinds = {key: type(place) for key, place in places(found)}
    assert kinds == {"pairs": Located, "sets.real": Located, "part.text": Located, "bundle": Sent}


def test_a_config_is_saved_as_plain_text_and_travels_with_what_was_given(here: Path) -> None:
    found = Whole(pairs=("a",))

    (here / "saved.yaml").write_text(yaml.safe_dump(found.dump()))
    assert load(Whole, here / "saved.yaml") == found
    assert as_given(pickle.loads(pickle.dumps(found)).pairs[0]) == "a"
