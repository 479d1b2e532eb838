"""Sets of the proof: what a segmenter trains on, and the training that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.places import Folder, as_given
from pipeline.runs.config import saved_config
from pipeline.storage.files import is_folder
from pipeline.tables.conform import conform
from pipeline.tables.rows import Which, read_columns
from pipeline.tables.schema import PAIR
from pipeline.tables.selection import view_of
from pipeline.tables.shards import list_shards, some_shards
from pipeline.training.config import require_one_each
from pipeline.training.labelling import Hold
from pipeline.training.order import groups_of, ids_of

Masks = Literal["own"] | Hold
Varied = Literal["usual", "mild", "strong", "copy_paste"]
"""How pictures are varied; `TrainingSet.augmentation` says what each is."""
Part = tuple[str, str]
"""Folder of a run, and a slice of it."""


class TrainingSet(Config):
    """Pairs that a segmenter trains on, and how."""

    train: tuple[Folder, ...] = Field(min_length=1)
    """Folders of runs."""
    slices: tuple[str, ...] = ()
    """Which pairs of each folder are taken, as START:STOP in the order of their ids: "0:512" takes 512 drawn at random,
    "512:" all others. Empty takes all."""
    shares: tuple[float, ...] = ()
    """How many rows of a batch come from each folder, as parts of their sum. Empty takes all folders as one set."""
    masks: tuple[Masks, ...] = ()
    """Whose masks each folder's pictures have: "own", or those that a teacher sees in them: "free", "held" to the
    classes that the captions name, or "soft", where the others count for less. Empty takes their own."""
    pictures: Which = "all"
    """Which pictures of such folders: all, or those alone that have no mask."""
    teacher: str = ""
    """The set whose segmenter is the teacher, one above this one; "" the first."""
    ignore_below: float = Field(0.0, ge=0, le=1)
    """Pixels of which the teacher is less sure are left out of its masks."""
    agree: bool = False
    """Masks that the pictures have, such as a generator's, stay where the teacher agrees and are left out elsewhere."""
    balanced: bool = False
    """Rows with rare classes come more often (repeat factor sampling)."""
    augmentation: Varied | Literal[""] = ""
    """How pictures are varied: "usual" is the recipe's, "strong" scales to half to twice, crops and distorts colours as
    mmsegmentation does, "mild" the same at scales of 0.8 to 1.25, "copy_paste" lays objects of other pictures on half
    of them. "" is what was chosen for all sets, or the usual."""
    relabel: Literal["", "held", "free"] = ""
    """Masks of a generator or a teacher serve for the first quarter of the steps; then the segmenter draws them anew as
    it learns, by the average of its own weights and balanced over classes (SENSE): "held" to the classes of the mask
    that was there, or "free"."""
    after: str = ""
    """Another set, which the first half of the steps trains on; this one gets the other half."""

    @model_validator(mode="before")
    @classmethod
    def _folders_alone(cls, values: object) -> object:
        return {"train": values} if isinstance(values, list | tuple) else values

    @model_validator(mode="after")
    def _one_for_each_folder(self) -> TrainingSet:
        require_one_each(self.train, self.slices, self.shares, self.masks)
        return self

    def own(self, number: int) -> bool:
        """Whether a folder's pictures have their own masks."""
        return not self.masks or self.masks[number] == "own"

    def sizes(self) -> list[int]:
        """Pairs that are taken of each folder.

        Raises:
            ShardError: as `order.groups_of`.
        """
        found = []
        for number, folder in enumerate(self.train):
            part = self.slices[number : number + 1]
            if self.own(number) or self.pictures == "all":
                groups = groups_of([folder], part, labelled=self.own(number))
                found.append(sum(len(group.rows) for group in groups))
            else:
                found.append(len(ids_of(folder, (part or (":",))[0], self.pictures)))
        return found


def taught_parts(name: str, sets: Mapping[str, TrainingSet]) -> list[TrainingSet]:
    """A set, and that which it comes after, where masks of them are a teacher's."""
    parts = [sets[name], *([sets[sets[name].after]] if sets[name].after else [])]
    return [one for one in parts if not all(map(one.own, range(len(one.train))))]


def require_order(sets: Mapping[str, TrainingSet]) -> None:
    """Raises ValueError where sets wait for each other's segmenters, which are to label what they learn from."""
    waiting = list(sets)
    while waiting:
        teachers = {name: {one.teacher or next(iter(sets)) for one in taught_parts(name, sets)} for name in waiting}
        left = [name for name in waiting if teachers[name] & set(waiting)]
        if left == waiting:
            raise ValueError(
                f"{', '.join(waiting)}: the segmenters of these sets label pictures that they build on themselves, by "
                "`teacher` and `after`; let a set that comes before them be the teacher"
            )
        waiting = left


@dataclass(frozen=True)
class Labels:
    """Labelled pairs that something has learned from.

    Attributes:
        ids: those that are known one by one.
        least: how many there are at least, these among them; None where that is not known.
    """

    ids: frozenset[str] = frozenset()
    least: int | None = 0

    def __or__(self, other: Labels) -> Labels:
        known = None if self.least is None or other.least is None else max(self.least, other.least)
        return Labels(self.ids | other.ids, known)

    def count(self) -> int | None:
        """How many; None where that is not known."""
        return None if self.least is None else max(len(self.ids), self.least)

    @classmethod
    def of(cls, folder: str, part: str = ":") -> Labels:
        """Those of the pairs in a slice of a run. Where a teacher made its masks (`jobs.label`), the teacher's; where
        they were taken for other pictures (`jobs.multiply`), the pairs' that they are of too. What a teacher knows from
        elsewhere (its weights were given, or it began with others') cannot be counted."""
        if "labelled" not in origins(folder):
            return cls(frozenset(ids_of(folder, part, "labelled"))) | multiplied(folder)
        config = saved_config(view_of(folder).folder)
        teacher = config.get("teacher") or {}
        # A run of labels of a proof names the weights of its teachers; one of jobs.label has keys of the teacher.
        given = [teacher, *config.get("voters", ())] if isinstance(teacher, str) else [teacher.get("weights")]
        before = [part for weights in given if weights for part in behind(weights)[0]]
        learned = config.get("labelled") or ([config["pairs"]] if config.get("rounds") else [])
        counted = learned and not any(given) and not teacher.get("pretrained") and not is_synthetic(config["pairs"])
        found = cls(frozenset(one for part in before for one in ids_of(*part, "labelled")), 0 if counted else None)
        parts = config.get("slices") or [":"] * len(learned)
        for one, its in zip(learned, parts, strict=True):
            found = found | cls.of(one, its)
        return found


def behind(weights: str) -> tuple[list[Part], list[str]]:
    """What a segmenter learned from, by the config that lies beside the folder of its weights.

    Returns:
        The runs that are at hand, with the slice of each, and those that are not; none at all where nothing says it.
    """
    config = saved_config(weights.rstrip("/").rpartition("/")[0])
    folders = config.get("train") or []
    parts = list(zip(folders, config.get("slices") or [":"] * len(folders), strict=True))
    here = [part for part in parts if is_at_hand(part[0])]
    return here, [folder for folder, part in parts if (folder, part) not in here]


def is_at_hand(folder: str) -> bool:
    """Whether a folder that an earlier run names still holds pairs."""
    return is_folder(folder) and bool(list_shards(view_of(folder).folder))


def multiplied(folder: str) -> Labels:
    """Those whose masks have pictures in a run of `jobs.multiply`; none for other runs."""
    config = saved_config(view_of(folder).folder)
    return Labels.of(config["pairs"], config["slice"]) if config.get("job") == "multiply" else Labels()


def taught(folder: str, part: str = ":") -> int:
    """How many pictures of a slice of a run a teacher labelled (`jobs.label`)."""
    return len(ids_of(folder, part)) if "labelled" in origins(folder) else 0


def origins(folder: str) -> set[str]:
    """The kinds of pairs in a run: "real", "synthetic" of a generator, "labelled" by a teacher."""
    tables = [read_columns(path, ["origin"]) for path in some_shards(view_of(folder).folder)]
    return {one for table in tables if "origin" in table.column_names for one in table["origin"].unique().to_pylist()}


def pictures_of(folder: str, part: str = ":", *, labelled: bool = False) -> set[str]:
    """The names of the pictures in a slice of a run (data set, split and key), which labels of a teacher keep.

    Args:
        folder, part: as of `ids_of`.
        labelled: of those alone that a teacher has labelled.
    """
    ids = set(ids_of(folder, part))
    columns = ["pair_id", "origin", "dataset", "split", "key"]
    tables = (
        conform(read_columns(path, columns), pa.schema([PAIR.field(one) for one in columns]))
        for path in some_shards(view_of(folder).folder)
    )
    return {
        f"{row['dataset']}/{row['split']}/{row['key']}"
        for table in tables
        for row in table.to_pylist()
        if row["pair_id"] in ids and row["key"] and (row["origin"] == "labelled" or not labelled)
    }


def chosen_on(folder: str) -> set[str]:
    """Ids of the pairs that were given to choose a run of labels on (`jobs.label --validation`), where they are at
    hand; those that it held out by itself are among what its teacher learned from in the end."""
    if "labelled" not in origins(folder):
        return set()
    config = saved_config(view_of(folder).folder)
    given = config.get("validation")
    found = set(ids_of(given, which="labelled")) if given and is_at_hand(given) else set()
    return found.union(*map(chosen_on, filter(is_at_hand, config.get("labelled") or ())))


def require_real(key: str, folder: str) -> None:
    """Raises ConfigError where masks of a run, which something is judged on, are a generator's or a teacher's; `key` is
    that of the config. "" is no run."""
    if folder and (others := origins(folder) - {"real"}):
        kind = "labels of a teacher" if others == {"labelled"} else "generated pairs"
        raise ConfigError(f"{key}: {as_given(folder)} holds {kind}; give real pairs that people have labelled")


def require_made(key: str, chosen: TrainingSet) -> None:
    """Raises ConfigError where masks are to be drawn anew in a set, but people drew all of them; `key` is that of the
    config."""
    own = [folder for number, folder in enumerate(chosen.train) if chosen.own(number)]
    if chosen.relabel and len(own) == len(chosen.train) and set().union(*map(origins, own)) <= {"real"}:
        raise ConfigError(
            f"{key}: people drew all masks of this set, and those stay as they are; give generated or labelled pairs, "
            "or `masks`"
        )


def is_synthetic(folder: str) -> bool:
    """Whether any of a run's pairs are a generator's."""
    return "synthetic" in origins(folder)


def refuse_common(held_out: Mapping[str, set[str]], learned: Mapping[str, set[str]]) -> None:
    """Refuses pairs that something is judged on and learned from.

    Args:
        held_out: key of the config -> ids of what is judged on.
        learned: the same of what is learned from.

    Raises:
        ConfigError: says which share how many pairs.
    """
    for key, ids in held_out.items():
        for other, found in learned.items():
            if both := len(ids & found):
                raise ConfigError(
                    f"{key} and {other} share {both:,} pairs; what is learned from or chosen on must not be judged on. "
                    "Give another split, or slices that hold others"
                )


def by_folder(key: str, parts: Iterable[Part]) -> dict[str, list[Part]]:
    """Slices of runs by their folder, which stands behind the key of the config that names them."""
    found: dict[str, list[Part]] = {}
    for folder, part in parts:
        found.setdefault(f"{key} ({as_given(folder)})", []).append((folder, part))
    return found


def refuse_learned(
    held_out: Mapping[str, set[str]], pictures: Mapping[str, set[str]], learned: Mapping[str, Sequence[Part]]
) -> None:
    """Refuses pairs that something is judged on and learned from, or that anything behind its masks learned from; also
    where a teacher gave their pictures other ids.

    Args:
        held_out, pictures: key of the config -> ids of what is judged on, and the names of its pictures.
        learned: the same -> slices of runs that are learned from.

    Raises:
        ConfigError: as `refuse_common`.
    """
    ids = {
        key: {one for part in parts for one in (*ids_of(*part), *Labels.of(*part).ids)}
        for key, parts in learned.items()
    }
    refuse_common(held_out, ids)
    renamed = {
        key: {one for part in parts for one in pictures_of(*part, labelled=True)} for key, parts in learned.items()
    }
    refuse_common(pictures, renamed)
