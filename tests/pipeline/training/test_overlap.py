"""What is judged on and learned from is found by its content before a training says anything."""

from __future__ import annotations

import pytest
import yaml

from pipeline.base.errors import ConfigError
from pipeline.training import overlap
from pipeline.training.overlap import same_pictures, tell_same
from tests.pipeline.tables.test_contents import pairs, save


@pytest.fixture
def runs(tmp_path):
    train = pairs(pair_id=["a", "b", "c"], image_digest=["1", "2", "3"])
    return save(tmp_path / "train", train), save(tmp_path / "test", pairs(pair_id=["x", "y"], image_digest=["2", "9"]))


def test_pictures_are_found_under_other_names_and_only_in_the_slices(runs) -> None:
    train, test = runs

    assert same_pictures([(test, ":")], [(train, ":")]) == {"x": "b"}
    assert same_pictures([(test, ":")], [(train, "2:")]) == same_pictures([(test, "1:")], [(train, ":")]) == {}


def test_they_are_refused_or_told(runs, caplog) -> None:
    train, test = runs
    held_out, learned = {"test": [(test, ":")]}, {"sets.real": [(train, ":")]}

    with pytest.raises(
        ConfigError, match=r"test and sets.real have 1 pictures in common.*x is b.*--same-pictures warn"
    ):
        tell_same(held_out, learned, "refuse")
    (told,) = tell_same(held_out, learned)
    assert told in caplog.text and tell_same({"test": [(test, "1:")]}, learned) == []
    assert "test and sets.real have 1 pictures in common" in caplog.text


def test_latents_are_known_by_the_pairs_that_they_are_of(runs, tmp_path) -> None:
    from pipeline.tables.schema import LATENT

    train, test = runs
    key = {name: [b""] for name in ("image_latent", "mask_latent", "image_embedding", "text_embedding")}
    latents = save(tmp_path / "latents", {"latent_id": ["l"], "pair_id": ["b"], "flipped": [False], **key}, LATENT)
    (tmp_path / "latents/config.yaml").write_text(yaml.safe_dump({"job": "encode", "pairs": [train]}))

    assert same_pictures([(test, ":")], [(latents, ":")]) == {"x": "b"}
    assert same_pictures([(train, ":")], [(latents, ":")]) == {"b": "b"}


def test_each_folder_is_read_once_however_many_sets_learn_from_it(runs, monkeypatch) -> None:
    train, test = runs
    read: list[str] = []

    def noted(folder: str) -> dict[str, str]:
        read.append(folder)
        return {}

    monkeypatch.setattr(overlap, "contents_of", noted)

    tell_same({"test": iter([(test, ":")])}, {f"sets.{number}": iter([(train, ":")]) for number in range(3)})

    assert sorted(read) == sorted([train, test])
