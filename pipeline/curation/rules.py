"""Rules: which pairs of a set are kept by what was said of them, and why the others are not.

A pair of which a score says nothing (null) is never left out by it, but by `rank_by` it comes last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pipeline.base.config import Config
from pipeline.curation.duplicates import MOST_BITS, alike
from pipeline.tables.scores import BETTER, kind_of

Within = Literal["all", "class", "num_classes"]


class Rules(Config):
    """What a pair must be to be kept. They come in this order; a pair is left out by the first that it fails."""

    drop_blocked: bool = True
    """Leave out pairs with words or classes that nobody wanted (`jobs.score --unwanted`)."""
    drop_copies: bool = True
    """Leave out pairs that are nearer to a real one than real ones are to each other, but for one in a thousand."""
    at_least: Mapping[str, float] = Field(default_factory=dict)
    """Score -> the least that it must be."""
    at_most: Mapping[str, float] = Field(default_factory=dict)
    """Score -> the most that it may be."""
    alike_within_bits: int = Field(MOST_BITS, ge=-1, le=MOST_BITS)
    """Leave out pictures whose hashes differ in so few bits of 64 from that of a better kept one; -1 keeps all."""
    best: Mapping[str, float] = Field(default_factory=dict)
    """Score -> the share of pairs that are kept by it, the best ones."""
    within: Within = "num_classes"
    """Among which pairs these are the best: "all"; those with as many classes, since masks of many are harder ("SDS");
    or those that hold a class, where the best of any of its classes are kept."""
    most_per_class: int = Field(0, ge=0)
    """Pairs of each class; one goes when all of its classes have as many. 0 is no bound."""
    target: int = Field(0, ge=0)
    """Pairs in the end, the best ones; 0 takes all that are left."""
    rank_by: str = ""
    """Score that says which are the best of what looks alike, for bounds and for the target, those without it last; ""
    draws them by their ids."""

    @field_validator("at_least", "at_most", "best")
    @classmethod
    def _scores(cls, found: Mapping[str, float]) -> Mapping[str, float]:
        if unknown := sorted(set(found) - set(BETTER)):
            raise ValueError(f"{', '.join(unknown)}: no score; there are {', '.join(sorted(BETTER))}")
        return found

    @model_validator(mode="after")
    def _shares(self) -> Rules:
        if wrong := [name for name, share in self.best.items() if not 0 < share < 1]:
            raise ValueError(f"best: {', '.join(wrong)} must be shares above 0 and below 1")
        if self.rank_by and self.rank_by not in BETTER:
            raise ValueError(f"rank_by: {self.rank_by!r} is no score; there are {', '.join(sorted(BETTER))}")
        return self

    @property
    def scores(self) -> list[str]:
        """The scores that are looked at."""
        return [name for name in self._named if kind_of(name)]

    @property
    def columns(self) -> list[str]:
        """The columns of the pairs themselves that are looked at."""
        return [name for name in self._named if not kind_of(name)]

    @property
    def _named(self) -> list[str]:
        return list(dict.fromkeys([*self.at_least, *self.at_most, *self.best, *([self.rank_by] * bool(self.rank_by))]))


def reasons(
    rows: pa.Table, rules: Rules, copy_ratio: float, num_classes: int, by_hand: tuple[np.ndarray, str] | None = None
) -> list[str | None]:
    """Why each pair is left out; None where it is kept.

    Args:
        rows: `pair_id`, `class_ids`, `rules.scores`, `rules.columns`, and where they are known `blocked`,
            `picture_hash` and `nearest_ratio`; in the order of ids.
        rules: what is wanted.
        copy_ratio: a pair below it is a copy.
        num_classes: of the label space; `class_ids` hold the ignore index too, which is no class.
        by_hand: which pairs somebody left out before any rule, (N,) bool, and what is said of them.
    """
    left_out = Reasons(rows)
    if by_hand:
        left_out.add(*by_hand)
    if rules.drop_blocked and "blocked" in rows.column_names:
        left_out.add(np.array([bool(one) for one in rows["blocked"].to_pylist()]), "blocked")
    if rules.drop_copies and "nearest_ratio" in rows.column_names:
        left_out.add(numbers(rows, "nearest_ratio") < copy_ratio, "a copy of a real pair")
    for name, least in rules.at_least.items():
        left_out.add(numbers(rows, name) < least, f"{name} below {least:g}")
    for name, most in rules.at_most.items():
        left_out.add(numbers(rows, name) > most, f"{name} above {most:g}")
    order = ranking(rows, rules.rank_by)
    if rules.alike_within_bits >= 0 and "picture_hash" in rows.column_names:
        left_out.add(_alike(rows, left_out.kept, order, rules.alike_within_bits), "looks like another one")
    classes = [[one for one in ids or () if 0 < one <= num_classes] for ids in rows["class_ids"].to_pylist()]
    for name, share in rules.best.items():
        worse = _not_best(rows, name, share, groups_of(classes, rules.within), left_out.kept)
        left_out.add(worse, f"{name} not among the best {100 * share:g} %")
    if rules.most_per_class:
        left_out.add(_beyond(classes, left_out.kept, order, rules.most_per_class), "its classes have enough")
    if rules.target:
        taken = [place for place in order.tolist() if left_out.kept[place]][: rules.target]
        beyond = np.ones(rows.num_rows, bool)
        beyond[taken] = False
        left_out.add(beyond, "beyond the target")
    return left_out.why


class Reasons:
    """Why pairs are left out, the first reason of each."""

    def __init__(self, rows: pa.Table) -> None:
        self.why: list[str | None] = [None] * rows.num_rows

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool."""
        return np.array([one is None for one in self.why], bool)

    def add(self, gone: np.ndarray, reason: str) -> None:
        """Leaves out those of (N,) bool that are not left out yet."""
        for place in np.flatnonzero(gone).tolist():
            self.why[place] = self.why[place] or reason


def numbers(rows: pa.Table, name: str) -> np.ndarray:
    """(N,) float64 of a score; NaN, which no comparison holds for, where it is null."""
    return np.array([np.nan if one is None else float(one) for one in rows[name].to_pylist()])


def ranking(rows: pa.Table, rank_by: str) -> np.ndarray:
    """(N,) places of pairs, the best first, by a score or by their ids; null scores come last."""
    if not rank_by:
        return np.arange(rows.num_rows)
    return np.argsort(-BETTER[rank_by] * numbers(rows, rank_by), kind="stable")


def groups_of(classes: Sequence[Sequence[int]], within: Within) -> list[list[int]]:
    """Places of pairs that are compared with each other; a pair may be in several groups."""
    groups: dict[int, list[int]] = {}
    for place, ids in enumerate(classes):
        for key in {"all": [0], "num_classes": [len(ids)], "class": ids or [0]}[within]:
            groups.setdefault(key, []).append(place)
    return list(groups.values())


def _not_best(rows: pa.Table, name: str, share: float, groups: list[list[int]], kept: np.ndarray) -> np.ndarray:
    values = BETTER[name] * numbers(rows, name)
    best = np.isnan(values)  # of these nothing is said
    for group in groups:
        places = np.array([one for one in group if kept[one] and not np.isnan(values[one])], np.int64)
        if len(places):
            best[places[np.argsort(-values[places], kind="stable")[: max(1, round(share * len(places)))]]] = True
    return ~best


def _alike(rows: pa.Table, kept: np.ndarray, order: np.ndarray, bits: int) -> np.ndarray:
    hashes = rows["picture_hash"].to_pylist()
    places = np.array([one for one in order.tolist() if kept[one] and hashes[one] is not None], np.int64)
    gone = np.zeros(rows.num_rows, bool)
    if len(places):
        group = alike(np.array([hashes[one] for one in places.tolist()], np.int64), bits)
        gone[places[group != np.arange(len(places))]] = True
    return gone


def _beyond(classes: Sequence[Sequence[int]], kept: np.ndarray, order: np.ndarray, most: int) -> np.ndarray:
    num: dict[int, int] = {}
    gone = np.zeros(len(kept), bool)
    for place in order.tolist():
        ids = classes[place]
        if not kept[place] or not ids:
            continue
        if all(num.get(one, 0) >= most for one in ids):
            gone[place] = True
            continue
        for one in ids:
            num[one] = num.get(one, 0) + 1
    return gone
