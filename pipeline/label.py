"""Label: masks for pictures that people have, by a teacher that learns from the few that have some.

A teacher that is often wrong does harm, so the job judges itself first: on labelled pairs that the teacher has not
seen, is a segmenter that trains on its labels too better than one that trains on the labelled pairs alone, at equal
steps? What is not shown to help is not written.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from models.labels import LabelSpace
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import log
from pipeline.base.places import as_given
from pipeline.cluster.finish import finish
from pipeline.evaluation.results import FILE
from pipeline.pages.proof_table import markdown
from pipeline.runs.run import Run
from pipeline.storage.files import is_local
from pipeline.storage.publish import write_bytes
from pipeline.tables.ids import text_digest
from pipeline.tables.label_space import common_labels
from pipeline.tables.manifest import Manifest
from pipeline.training.judging import Judged, Judging, JudgingKeys, Way
from pipeline.training.labelling import Labelling, write_labels
from pipeline.training.order import ids_of, require_rows

SAFE_TO_CHANGE = frozenset({"rows_per_shard", "even_if_worse", "rounds"})
TABLE = "proof.md"


class LabelConfig(JudgingKeys):
    """Gives pictures masks: trains a teacher on labelled pairs, tries how it is to answer, judges what that helps."""

    voters: int = Field(1, ge=1)
    """Teachers that label together in the end, trained with seeds of their own; their shares are averaged."""
    even_if_worse: bool = False
    """Write the best labels that were found though they are not shown to help."""
    rows_per_shard: int = Field(1000, ge=1)
    """Pairs per Parquet file, give or take half."""

    @model_validator(mode="after")
    def _fits(self) -> LabelConfig:
        if self.voters > 1 and not self.teacher.is_trained:
            raise ValueError("voters are trained here, and this teacher is not: take one voter, or another teacher")
        return self

    def check_inputs(self) -> None:
        super().check_inputs()
        folders, parts = self.sources
        if all(map(is_local, (self.pairs, self.validation, *folders))):
            self.common_labels()
            require_rows([self.pairs, *folders], [self.slice, *parts])

    def common_labels(self) -> LabelSpace:
        """Of all pairs; raises DataError where they differ."""
        return common_labels([one for one in (self.pairs, *self.sources[0], self.validation) if one])


def label(config: LabelConfig) -> Manifest:
    """Writes the pictures that `config.run` does not hold yet with their labels, and how these were judged as
    `<run>/proof.json` and `proof.md`; returns what it holds then.

    Raises:
        ConfigError, DataError, ShardError: each says what is wrong, where, and how to correct it; labels that are not
            shown to help are one.
        Stopped: SIGINT or SIGTERM; what is trained and labelled serves again.
    """
    labels = config.common_labels()
    if not ids_of(config.pairs, config.slice, config.pictures):
        raise ConfigError(
            f"pairs: {as_given(config.pairs)} has no {config.pictures} pictures in {config.slice}; give another run, "
            "or --pictures all"
        )
    config.check_pretrained(labels)
    with Run.open(config, "label", SAFE_TO_CHANGE, on_store=True) as run:
        judging = Judging.begin(config, labels, run)
        judged = judging.best()
        show(judged, run)
        way = judged.best
        if judged.gain <= 0:
            told = (
                f"labels are not shown to help: with the best of them ({way.row.name}) a segmenter reaches mIoU "
                f"{np.mean(way.row.miou):.4f}, with the labelled pairs alone {np.mean(judging.first.miou):.4f}, and by "
                f"chance that may be a gain of {judged.gain:+.4f}; see {run.folder}/{TABLE}"
            )
            if not config.even_if_worse:
                raise DataError(f"{told}. Label more pictures by hand, or say --even-if-worse True")
            log.warning("label: %s", told)
        write(config, judging, way, run)
        return finish(run)


def show(judged: Judged, run: Run) -> None:
    """Writes how all ways were judged."""
    for name, text in ((FILE, judged.proof.model_dump_json(indent=1)), (TABLE, f"{markdown(judged.proof)}\n")):
        write_bytes(f"{run.folder}/{name}", text.encode())
        run.tracker.text(name, text)
    best = judged.best.row.name
    if judged.lost:
        log.warning("label: %s", judged.lost)
    log.info("label: the best is “%s”, whose gain is above %+.4f; see %s/%s", best, judged.gain, run.folder, TABLE)


def write(config: LabelConfig, judging: Judging, way: Way, run: Run) -> None:
    """Writes all labels, as they were found to help."""
    name = judging.teacher_of(way)
    # The seeds of the rows come first, so that teachers that are trained already serve.
    chosen = config.labelled_set(config.sources[1])
    (teacher, digest), *voters = [judging.proving.weights(name, seed, chosen) for seed in range(config.voters)]
    request = Labelling(
        run=config.run,
        runs=config.runs,
        pairs=config.pairs,
        slice=config.slice,
        pictures=config.pictures,
        teacher=teacher,
        voters=tuple(folder for folder, _ in voters),
        hold=way.hold,
        unnamed=judging.proving.unnamed() if way.hold == "soft" else 0.0,
        ignore_below=way.ignore_below,
        number=way.number,
        agree=config.agree,
        rows_per_shard=config.rows_per_shard,
        workers=config.workers,
    )
    digest = text_digest([digest, *(one for _, one in voters)]) if voters else digest
    write_labels(run, request, judging.proving.task_of(name), digest)
