"""Overlap: pictures that something is judged on and learns from, found by their content, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Literal

from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.runs.config import saved_config
from pipeline.storage.files import is_folder
from pipeline.tables.contents import contents_of
from pipeline.tables.selection import view_of
from pipeline.training.config import TrainingConfig
from pipeline.training.order import ids_of

SamePictures = Literal["refuse", "warn"]
NUM_NAMED = 3
Parts = Iterable[tuple[str, str]]
"""Folders of runs, and a slice of each."""
Contents = Callable[[str, str], dict[str, str]]
"""A folder of a run and a slice -> pair id -> digest of its picture."""


def same_pictures(held_out: Parts, learned: Parts, contents: Contents | None = None) -> dict[str, str]:
    """Id of a held-out pair -> id of one that is learned from and has the same picture, or is the same pair."""
    contents = contents or _contents
    there = {digest: pair_id for part in learned for pair_id, digest in contents(*part).items()}
    held = {pair_id: digest for part in held_out for pair_id, digest in contents(*part).items()}
    return {pair_id: there[digest] for pair_id, digest in sorted(held.items()) if digest in there}


def tell_same(held_out: Mapping[str, Parts], learned: Mapping[str, Parts], how: SamePictures = "warn") -> list[str]:
    """Says which pictures are judged on and learned from; returns what it said.

    Args:
        held_out: key of the config -> what is judged on.
        learned: the same of what is learned from.
        how: "refuse" makes it an error.

    Raises:
        ConfigError: names the keys, how many, and three of them.
    """
    learned = {key: list(parts) for key, parts in learned.items()}
    contents = cache(_contents)  # many sets learn from one folder
    warnings = []
    for key, parts in {key: list(parts) for key, parts in held_out.items()}.items():
        for other, others in learned.items():
            if not (same := same_pictures(parts, others, contents)):
                continue
            listed = ", ".join(f"{one} is {known}" for one, known in list(same.items())[:NUM_NAMED])
            more = ", ..." if len(same) > NUM_NAMED else ""
            told = (
                f"{key} and {other} have {len(same):,} pictures in common, by their content ({listed}{more}): one "
                "folder that was read twice, or copies. What is judged on pictures that were learned from looks better "
                "than it is"
            )
            if how == "refuse":
                raise ConfigError(f"{told}. Keep them apart, or say --same-pictures warn to go on all the same")
            log.warning("%s", told)
            warnings.append(told)
    return warnings


def tell_of_training(config: TrainingConfig) -> None:
    """Warns where a training is judged on pictures that it learns from."""
    held_out = {"validation": [(config.validation, config.validation_slice or ":")]}
    tell_same(held_out, {"train": parts_of(config.train, config.slices)})


def _contents(folder: str, part: str) -> dict[str, str]:
    """Pair id -> digest of the pictures in a slice of a run of pairs or of latents; latents whose pairs are not at hand
    are known by their ids."""
    ids = set(ids_of(folder, part))
    found = contents_of(folder)
    if not found and saved_config(view_of(folder).folder).get("job") == "encode":
        sources = [one for one in saved_config(view_of(folder).folder).get("pairs") or [] if is_folder(one)]
        found = {pair_id: pair_id for pair_id in ids}
        for one in sources:
            found |= contents_of(one)
    return {pair_id: digest for pair_id, digest in found.items() if pair_id in ids}


def parts_of(folders: Iterable[str], slices: Iterable[str]) -> list[tuple[str, str]]:
    """Folders with a slice of each; without slices all of each."""
    folders, slices = list(folders), list(slices)
    return list(zip(folders, slices or [":"] * len(folders), strict=True))
