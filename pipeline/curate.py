"""Curate: a selection of a run's pairs by scores or marks, and a table of what goes and why. Nothing is deleted."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from models.labels import LabelSpace
from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.base.places import FileOrFolder, Folder, as_given
from pipeline.curation.rules import Rules, reasons
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.storage.publish import write_bytes
from pipeline.tables.label_space import LABELS, load_labels
from pipeline.tables.marks import read_marks
from pipeline.tables.rows import read_ids, read_shards
from pipeline.tables.scores import kind_of, made_with, read_scores
from pipeline.tables.selection import view_of, write_selection
from pipeline.tables.shards import list_shards

TABLE = "selection.md"
UNASKED = {"blocked": "drop_blocked", "nearest_ratio": "drop_copies", "picture_hash": "alike_within_bits"}
"""Scores that are looked at where they are known, and the rules that do."""


class CurateConfig(RunConfig):
    """Chooses pairs by their scores, by columns of their own, or by marks of a gallery. The run stands for the pairs
    that are kept wherever a job reads pairs."""

    pairs: Folder
    """Run whose pairs are chosen."""
    scores: Folder = ""
    """Run of jobs.score with their scores. May be empty where `marks` are given, or rules that need no scores."""
    marks: FileOrFolder = ""
    """File of marked pairs that the page of jobs.gallery saves; empty where nobody has marked any."""
    marked: Literal["keep", "drop"] = "keep"
    """Keep marked pairs alone, or leave them out. The rules hold besides."""
    rules: Rules = Rules()
    """What a pair must be to be kept."""

    @model_validator(mode="after")
    def _has_reasons(self) -> CurateConfig:
        own = self.rules.columns or self.rules.most_per_class or self.rules.target
        if not self.scores and not self.marks and not own:
            raise ValueError(
                "give `scores`, `marks` or both, or rules that need neither (on confidence_mean or "
                "guidance_difference, most_per_class, target): nothing else says which pairs to keep"
            )
        if not self.scores and self.rules.scores:
            raise ValueError(f"rules: {', '.join(self.rules.scores)} needs `scores`: give the run of jobs.score")
        return self


def curate(config: CurateConfig) -> None:
    """Writes the selection and its table; again with other rules where it is there already.

    Raises:
        ConfigError, DataError, ShardError: each says what is wrong, where, and how to correct it.
    """
    with Run.open(config, "curate", frozenset({"rules", "scores", "marks", "marked"}), on_store=True) as run:
        labels = load_labels(config.pairs)
        rows = read_shards([config.pairs], ["pair_id", "class_ids", *config.rules.columns]).sort_by("pair_id")
        scores, copy_ratio = scores_of(config, rows["pair_id"])
        for name, values in scores.items():
            rows = rows.append_column(name, values)
        why = reasons(rows, config.rules, copy_ratio, labels.num_classes, _by_hand(config, rows["pair_id"]))
        left = why.count(None)
        if not left:
            raise DataError(
                f"no pair is left of {rows.num_rows:,}: {dict(Counter(why))}; lower what you ask for in `rules`"
            )
        folder = str(run.folder)
        write_bytes(f"{folder}/{LABELS}", labels.to_json().encode())
        chosen = {"pair_id": rows["pair_id"], "reason": pa.array(why, pa.string())}
        write_selection(folder, view_of(config.pairs).folder, pa.table(chosen))  # of what another one keeps, too
        text = markdown(why, rows["class_ids"].to_pylist(), labels)
        write_bytes(f"{folder}/{TABLE}", text.encode())
        run.tracker.text(TABLE, text)
        run.tracker.metrics({"kept": left, "left_out": rows.num_rows - left})
        for reason, num in Counter(one for one in why if one).most_common():
            log.info("curate: %s left out: %s", f"{num:,}", reason)
        log.info("curate: %s of %s pairs are kept; %s/%s", f"{left:,}", f"{rows.num_rows:,}", folder, TABLE)


def scores_of(config: CurateConfig, ids: pa.ChunkedArray) -> tuple[dict[str, pa.ChunkedArray], float]:
    """The scores of pairs that the rules look at, and below which ratio a pair is a copy."""
    if not config.scores:
        log.info("curate: without `scores` nothing is left out as blocked, as a copy or as alike")
        return {}, 0.0
    there = [name for name in UNASKED if list_shards(f"{config.scores}/{kind_of(name)}")]
    for name, rule in UNASKED.items():
        if name not in there and getattr(config.rules, rule) not in (False, -1):
            given = as_given(config.scores)
            log.warning("curate: rules.%s does nothing: %s has no scores of the kind %s", rule, given, kind_of(name))
    copy_ratio = float(made_with(config.scores, "nearest")["copy_ratio"]) if "nearest_ratio" in there else 0.0
    found = read_scores(config.scores, list(dict.fromkeys([*there, *config.rules.scores])), ids)
    for kind in dict.fromkeys(map(kind_of, found)):
        scored = pc.is_in(ids, pc.unique(read_ids(f"{config.scores}/{kind}")))
        if bare := pc.sum(pc.invert(scored)).as_py():
            raise DataError(
                f"{as_given(config.scores)}: {bare:,} of {len(ids):,} pairs have no scores of the kind {kind} yet; run "
                "the same jobs.score again"
            )
    return found, copy_ratio


def _by_hand(config: CurateConfig, ids: pa.ChunkedArray) -> tuple[np.ndarray, str] | None:
    """Which pairs somebody left out, and what is said of them."""
    if not config.marks:
        return None
    marked = read_marks(config.marks, ids)
    return (~marked, "not marked") if config.marked == "keep" else (marked, "marked")


def markdown(why: list[str | None], class_ids: list[list[int]], labels: LabelSpace) -> str:
    """What goes and why, and every class before and after."""
    lines = [f"{why.count(None):,} of {len(why):,} pairs are kept.", "", "| left out | pairs |", "|---|--:|"]
    lines += [f"| {reason} | {num:,} |" for reason, num in Counter(one for one in why if one).most_common()]
    before = Counter(one for ids in class_ids for one in ids or ())
    after = Counter(one for ids, reason in zip(class_ids, why, strict=True) if reason is None for one in ids or ())
    lines += ["", "| class | pairs with it | kept | share |", "|---|--:|--:|--:|"]
    for number, name in enumerate(labels.classes):
        if before[number]:
            share = after[number] / before[number]
            lines.append(f"| {name} | {before[number]:,} | {after[number]:,} | {share:.2f} |")
    return "\n".join(lines) + "\n"
