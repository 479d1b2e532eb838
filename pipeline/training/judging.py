"""Judging: which labels of a teacher help a segmenter, and whether any do, on labelled pairs that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field, model_validator

from models.labels import LabelSpace
from pipeline.base.log import log
from pipeline.base.places import Folder, as_given
from pipeline.evaluation.agreement import agreement_with_truth
from pipeline.evaluation.results import HeldOut, Proof, TrainedSet
from pipeline.evaluation.spread import least_gains
from pipeline.evaluation.units import units_of
from pipeline.runs.run import Run
from pipeline.tables.rows import Which, read_shards
from pipeline.training.config import require_one_each
from pipeline.training.labelling import Hold, tell_named
from pipeline.training.order import bounds, cut_behind, ids_of, parted, require_held_out
from pipeline.training.overlap import tell_same
from pipeline.training.proving import Proving
from pipeline.training.sets import (
    Labels,
    TrainingSet,
    by_folder,
    pictures_of,
    refuse_common,
    refuse_learned,
    require_real,
)
from pipeline.training.teacher import TeacherKeys, known_behind
from pipeline.training.terms import SegmenterKeys

ALONE = "labelled pairs alone"
MASKS = ["pair_id", "mask"]
LEAST_UNNAMED = 0.02
"""How often captions leave a class out at least, for a soft hold to be tried beside a plain one."""
LOST = 0.03
"""IoU that a class loses by labels from which on it is told."""
HELD_OUT_SHARE = 0.2
"""Of the labelled pairs, where none are given to judge on."""


class JudgingKeys(SegmenterKeys):
    """What labels are made of and how, and what judges them."""

    seeds: int = Field(3, ge=2)
    """Trainings of each way; they say how much of a gain is chance."""
    epochs: float = Field(192, gt=0)
    """Times that the teacher sees each of its pairs; all other trainings take as many steps."""
    pairs: Folder
    """Run whose pictures get masks."""
    slice: str = ":"
    """Which of its pictures, as START:STOP in the order of their ids."""
    pictures: Which = "unlabelled"
    """Those of them that have no mask, or all, whose masks are then not looked at."""
    labelled: tuple[Folder, ...] = ()
    """Runs of labelled pairs that the teacher learns from; empty takes the labelled ones of `pairs`."""
    slices: tuple[str, ...] = ()
    """Which pairs of each, as `slice`."""
    validation: Folder = ""
    """Run of labelled pairs to judge on. Empty holds a fifth of the labelled ones out, and trains the teacher anew on
    all of them in the end."""
    validation_rows: int = Field(1024, ge=1)
    """Of these, at most."""
    teacher: TeacherKeys = TeacherKeys()
    """What labels in the first round."""
    holds: tuple[Hold, ...] = Field(("held", "soft", "free"), min_length=1)
    """Which classes the teacher may answer: "held", those that a picture's captions name; "soft", the others too, but
    weighed by how often the captions of labelled pairs leave a class out; "free", all. Several are tried."""
    ignore_below: tuple[float, ...] = Field((0.0, 0.7), min_length=1)
    """Pixels of which the teacher is less sure, from 0 to 1, are left void. Several are tried, with each hold."""
    agree: bool = False
    """Pictures that have masks, such as a generator's, keep them where the teacher agrees; the rest is left void. Needs
    `--pictures all`."""
    rounds: int = Field(1, ge=1)
    """Labels, trains on them and labels again so often, as long as that helps."""
    balanced: bool = False
    """Rows with rare classes come more often in all trainings, as of jobs.evaluate: a teacher answers rare classes less
    than they are there, and labels make them rarer still."""
    share: float = Field(0.5, gt=0, lt=1)
    """Of the rows of a batch that are pictures with a teacher's labels, in the trainings that judge."""
    train_pictures: int = Field(12_000, ge=1)
    """Pictures that those trainings see, at most; all of them get labels in the end."""

    @model_validator(mode="after")
    def _judged(self) -> JudgingKeys:
        require_one_each(self.labelled or (self.pairs,), self.slices, key="labelled" if self.labelled else "pairs")
        bounds(self.slice or ":")
        if not all(0 <= one < 1 for one in self.ignore_below):
            raise ValueError(f"ignore_below: shares from 0 to less than 1, got {self.ignore_below}")
        if self.agree and self.pictures != "all":
            raise ValueError("agree compares with masks that pictures have: say --pictures all")
        return self

    @property
    def sources(self) -> tuple[list[str], list[str]]:
        """Folders of labelled pairs, and the slice of each."""
        folders = list(self.labelled or (self.pairs,))
        return folders, list(self.slices or [":"] * len(folders))

    def labelled_set(self, parts: Sequence[str]) -> TrainingSet:
        """The labelled pairs in slices of these folders."""
        return TrainingSet(train=tuple(self.sources[0]), slices=tuple(parts), balanced=self.balanced)


@dataclass(frozen=True)
class Way:
    """A way to label that was judged.

    Attributes:
        hold, ignore_below: how the teacher answers.
        number: of its round.
        row: what a segmenter reached with such labels.
    """

    hold: Hold
    ignore_below: float
    number: int
    row: TrainedSet


@dataclass(frozen=True)
class Judged:
    """What came of judging.

    Attributes:
        best: the best way to label.
        gain: what its gain is above, whatever pictures and trainings it is judged by (`least_gains`).
        proof: of all ways.
        lost: which classes it loses, to be told; "" for none.
    """

    best: Way
    gain: float
    proof: Proof
    lost: str


@dataclass
class Judging:
    """The trainings that say which labels help.

    Attributes:
        config: of the job.
        proving, sets: the trainings.
        parts: slices of the labelled folders that the teacher learns from.
        held_out: the run that is judged on, and its slice.
        run: of the job, open.
        first: the row of the labelled pairs alone.
        units: what is independent of each other among the held-out pairs, and what that is called.
        part: slice of the pictures that the trainings see.
        rounds: the set that was best in each round.
    """

    config: JudgingKeys
    proving: Proving
    sets: dict[str, TrainingSet]
    parts: list[str]
    held_out: tuple[str, str]
    run: Run
    first: TrainedSet
    units: tuple[str, list[str]]
    part: str
    rounds: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, config: JudgingKeys, labels: LabelSpace, run: Run) -> Judging:
        """Trains with the labelled pairs alone."""
        folders, parts = config.sources
        TrainingSet(train=tuple(folders), slices=tuple(parts)).sizes()  # a slice that asks for too much is told now
        require_real("validation", config.validation)
        held_out = (config.validation, ":")
        if not config.validation:
            require_real("validation, a part of the labelled pairs where none is given", folders[0])
            parts[0], kept = parted(folders[0], parts[0], HELD_OUT_SHARE)
            held_out = (folders[0], kept)
        held = set(ids_of(*held_out, "labelled"))
        units = units_of(held_out[0], config.validation_rows, held)
        require_held_out(as_given(held_out[0]), len(held), len(set(units[1])))
        if not config.validation and units[0] != "pictures":
            log.warning(
                "label: the pairs that are held out share %s with those learned from: give --validation", units[0]
            )
        wanted = ids_of(config.pairs, config.slice, config.pictures)
        known = known_behind(config.teacher.weights, "teacher.weights", "it must be none of what is judged on")
        before, learners = by_folder("teacher.weights", known), by_folder("labelled", zip(folders, parts, strict=True))
        refuse_common({"validation": held}, {f"pairs ({as_given(config.pairs)})": set(wanted)})
        refuse_learned({"validation": held}, {"validation": pictures_of(*held_out)}, learners | before)
        if config.validation:
            before |= learners | {"pairs": [(config.pairs, config.slice or ":")]}
        tell_same({"validation": [held_out]}, before)
        start, _ = bounds(config.slice or ":")
        stop = cut_behind(config.pairs, config.slice, config.pictures, config.train_pictures)
        first = config.labelled_set(parts)
        sets = {ALONE: first}
        teacher = config.teacher.made(config, labels, first)
        if teacher:
            teacher.check()
        proving = Proving(
            config.terms(first),
            config.task(labels),
            config.common(first, held_out[0], config.validation_rows, held_out[1]),
            sets,
            config.seeds,
            units[1],
            Labels(),
            run,
            teacher,
            config.at_once,
        )
        ways = len(set(config.holds)) * len(set(config.ignore_below)) + config.rounds - 1
        log.info(
            "label: %d ways to label at most, each judged on %s held-out pairs by %d training(s) of %s steps; then %s "
            "pictures get labels",
            ways, f"{len(units[1]):,}", config.seeds, f"{proving.terms.optimisation().num_steps:,}",
            f"{len(wanted):,}",
        )  # fmt: skip
        return cls(config, proving, sets, parts, held_out, run, proving.trained(ALONE), units, f"{start}:{stop}")

    def best(self) -> Judged:
        """The best way to label, of all holds with all thresholds, then of as many rounds as help."""
        config = self.config
        holds = [hold for hold in dict.fromkeys(config.holds) if not self.is_as_held(hold)]
        named = tell_named(config.pairs, config.slice, config.pictures, self.proving.task.labels)
        if not named and holds != ["free"]:
            log.warning("label: so nothing holds the teacher, and free is all that is tried")
            holds = ["free"]
        tries = [(hold, below) for hold in holds for below in dict.fromkeys(config.ignore_below)]
        self.proving.train([self.named(*one) for one in tries])
        ways = [self.judged(*one) for one in tries]
        best = max(ways, key=_miou)
        self.rounds.append(best.row.name)
        for number in range(2, config.rounds + 1):
            ways.append(self.judged(best.hold, best.ignore_below, number, best.row.name))
            if _miou(ways[-1]) <= _miou(best):
                log.info("label: round %d does not help any more; those of round %d are kept", number, best.number)
                break
            best = ways[-1]
            self.rounds.append(best.row.name)
        unit, units = self.units
        differences = [way.row.difference for way in ways if way.row.difference]
        gain = least_gains(differences, len(set(units)))[ways.index(best)]
        lost = losses(best.row, self.first, balanced=config.balanced)
        proof = Proof(
            test=HeldOut(folder=as_given(self.held_out[0]), pairs=len(units), units=len(set(units)), unit=unit),
            seeds=list(range(config.seeds)),
            classes=list(self.proving.task.labels.classes),
            sets=[self.first, *(way.row for way in ways)],
            warnings=[
                *[f"“{best.row.name}” was chosen on these pairs: its figure is too good"] * (len(ways) > 1),
                f"its gain is above {gain:+.4f} with 97.5 % certainty, for other {unit}, other seeds and "
                f"{len(ways)} way(s) that were tried",
                *([lost] if lost else []),
            ],
        )
        return Judged(best, gain, proof, lost)

    def is_as_held(self, hold: Hold) -> bool:
        """Whether a soft hold would be a plain one, which is tried already: captions leave hardly any class out."""
        if hold != "soft" or "held" not in self.config.holds or (weight := self.proving.unnamed()) >= LEAST_UNNAMED:
            return False
        log.info("label: captions leave out %.1f %% of the classes, so that soft would be as held", 100 * weight)
        return True

    def named(self, hold: Hold, below: float, number: int = 1, teacher: str = "") -> str:
        """The name of the set that learns from labels so made."""
        name = hold + (f", {below:g} sure" if below else "") + (f", round {number}" if number > 1 else "")
        self.sets[name] = self.student(self.parts, hold, below, teacher)
        return name

    def judged(self, hold: Hold, below: float, number: int = 1, teacher: str = "") -> Way:
        """Labels so, trains on the labels and says what came of it."""
        chosen = self.sets[name := self.named(hold, below, number, teacher)]
        row = self.proving.compared(self.proving.trained(name), self.first)
        on, part = self.held_out
        alone = chosen.model_copy(update={"agree": False})  # true masks would agree with the truth
        made = self.proving.labels_by(alone, on, part, hold, "labelled", seed=0)
        task = self.proving.task
        answers, truth = read_shards([made], [*MASKS, "sampler"]), read_shards([on], MASKS)
        miou, kept = agreement_with_truth(answers, truth, task.labels, decode=task.decode)
        assert row.difference is not None
        agrees = f"agrees with the truth at mIoU {miou:.4f} where it answers, {100 * kept:.0f} % of all pixels"
        if not kept:
            agrees = "is sure of no pixel, so that its labels are all void: lower ignore_below or train it longer"
        log.info("label: %s: %s; a segmenter gains %+.4f", name, agrees, np.mean(row.difference.miou))
        self.run.tracker.metrics({f"agreement/{name}": miou, f"answered/{name}": kept})
        return Way(hold, below, number, row)

    def student(self, parts: Sequence[str], hold: Hold, below: float, teacher: str) -> TrainingSet:
        """The labelled pairs, and pictures with labels of a teacher."""
        config = self.config
        folders, _ = config.sources
        sizes = np.array(TrainingSet(train=tuple(folders), slices=tuple(parts)).sizes())
        return TrainingSet(
            train=(*folders, config.pairs),
            slices=(*parts, self.part),
            shares=(*((1 - config.share) * sizes / sizes.sum()).tolist(), config.share),
            masks=(*["own"] * len(folders), hold),
            pictures=config.pictures,
            teacher=teacher,
            ignore_below=below,
            agree=config.agree,
            balanced=config.balanced,
        )

    def teacher_of(self, way: Way) -> str:
        """The set whose segmenter labels in the end, "" for the first or the given one. Where pairs were held out, it
        learns from all."""
        parts = self.config.sources[1]
        if parts == self.parts:
            return "" if way.number == 1 else self.rounds[way.number - 2]
        name = "" if self.proving.teacher else "all labelled pairs"
        if name:
            self.sets[name] = self.config.labelled_set(parts)
        for number in range(1, way.number):
            before, name = name, f"all labelled pairs, round {number}"
            self.sets[name] = self.student(parts, way.hold, way.ignore_below, before)
        return name


def losses(row: TrainedSet, first: TrainedSet, *, balanced: bool) -> str:
    """Says which classes a segmenter sees worse with labels than without, in every training; "" where there are none.

    The mean over classes hides them: in a long tail labels gained five points, and all but lost the rarest class.
    """
    found = []
    for name, own in row.iou.items():
        pairs = [(one, alone) for one, alone in zip(own, first.iou[name], strict=True) if None not in (one, alone)]
        now, before = np.array(pairs, np.float64).reshape(-1, 2).T
        if len(now) and (now < before).all() and before.mean() - now.mean() > LOST:
            found.append(f"{name} ({now.mean():.2f} for {before.mean():.2f})")
    if not found:
        return ""
    advice = (
        "" if balanced else ". Where these are rare, try --balanced True, and train on the labels with balanced rows"
    )
    return (
        f"with “{row.name}” some classes are seen worse than with the labelled pairs alone: {', '.join(found)}{advice}"
    )


def _miou(way: Way) -> float:
    return float(np.mean(way.row.miou))
