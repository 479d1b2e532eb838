"""Guard: a stage whose rows may kill the process that it runs in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.tables.schema import ERROR

MAX_TRIES = 2

Rows = Any
"""A Batch, or a pyarrow Table."""


class Attempts(Protocol):
    """What outlives the process of a stage, so that the next one knows what the last one died of."""

    def begin(self, key: str, causes: Sequence[str]) -> tuple[int, frozenset[str]]:
        """Notes that work on `key` begins; returns how often it began before and never ended (-1 when all work is to
        stop), and which of the causes were given up."""
        ...

    def end(self, key: str) -> None:
        """Notes that it ended, well or not."""
        ...

    def give_up(self, cause: str) -> None:
        """Notes that a row or a prompt killed too often."""
        ...


class Guard:
    """Stage: `stage`, with a bounded number of tries for rows that kill it (a crash, memory that runs out).

    A batch that took its process with it twice is made row by row; a row that then does so twice more, alone, gets the
    error `reason`, as do all further rows of its prompt, where rows have one. A lost machine counts as a try too, but
    four times in a row is no accident.

    Args:
        stage: takes rows with `pair_id`. Rows that are given up come to it with an `error`, and it leaves them alone;
            those of a Table never do, but pass it by.
        attempts: what began before.
        reason: one of `pipeline.tables.schema.REASONS`.

    Attributes:
        nothing: no rows, as they come out, where all work is to stop.
    """

    def __init__(self, stage: Callable[[Rows], Rows], attempts: Attempts, reason: str) -> None:
        self.stage = stage
        self.attempts = attempts
        self.reason = reason
        self.nothing: Rows | None = None

    def __call__(self, batch: Rows) -> Rows:
        """Rows in, rows out; no rows when all work is to stop."""
        ids, causes = _texts(batch, "pair_id"), self._causes(batch)
        key = f"{ids[0]} and {len(ids) - 1} more" if ids else ""
        tries, given_up = self.attempts.begin(key, causes)
        if tries < 0:
            self.nothing = self.stage(_slice(batch, 0, 0))
            return self.nothing
        if tries < MAX_TRIES:
            made = self._made(batch, given_up)
        else:
            made = _joined([self._alone(one, _slice(batch, row, row + 1)) for row, one in enumerate(ids)])
        self.attempts.end(key)
        return made

    def _alone(self, pair_id: str, row: Rows) -> Rows:
        key, causes = f"{pair_id} alone", self._causes(row)
        tries, given_up = self.attempts.begin(key, causes)
        if tries >= MAX_TRIES:
            self.attempts.give_up(causes[0])
            given_up = frozenset(causes)
        made = self._made(row, given_up)
        self.attempts.end(key)
        return made

    def _causes(self, batch: Rows) -> list[str]:
        """What each row is given up by: its prompt, which other rows may have too, else itself."""
        return _texts(batch, "prompt_id" if "prompt_id" in _names(batch) else "pair_id")

    def _made(self, batch: Rows, given_up: frozenset[str]) -> Rows:
        """What the stage makes of a batch, with an error in the rows of causes that were given up."""
        if not given_up:
            return self.stage(batch)
        is_refused = np.array([cause in given_up for cause in self._causes(batch)], bool)
        detail = f"the process died {MAX_TRIES} times on this alone; it may need more memory than there is"
        errors = {"error": self.reason, "error_detail": detail}
        if isinstance(batch, pa.Table):
            refused = batch.select([name for name in ERROR.names if name in batch.column_names]).filter(is_refused)
            for name, text in errors.items():
                refused = refused.append_column(name, pa.array([text] * len(refused), pa.string()))
            left = batch.filter(~is_refused)
            return _joined([self.stage(left), refused] if len(left) else [refused])
        columns = {name: np.where(is_refused, text, "").astype(object) for name, text in errors.items()}
        return self.stage({**batch, **columns})


def _names(batch: Rows) -> Sequence[str]:
    return batch.column_names if isinstance(batch, pa.Table) else list(batch)


def _texts(batch: Rows, name: str) -> list[str]:
    values = batch[name].to_pylist() if isinstance(batch, pa.Table) else batch[name]
    return [str(value) for value in values]


def _slice(batch: Rows, begin: int, end: int) -> Rows:
    if isinstance(batch, pa.Table):
        return batch.slice(begin, end - begin)
    return {name: values[begin:end] for name, values in batch.items()}


def _joined(parts: list[Rows]) -> Rows:
    if isinstance(parts[0], pa.Table):
        return pa.concat_tables(parts, promote_options="permissive")  # rows that were given up have few columns
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
