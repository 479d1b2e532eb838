"""Guard: a stage whose rows may kill the process that it runs in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from pipeline.tables.schema import Batch

MAX_TRIES = 2


class Attempts(Protocol):
    """What outlives the process of a stage, so that the next one knows what the last one died of."""

    def begin(self, key: str, prompt_ids: Sequence[str]) -> tuple[int, frozenset[str]]:
        """Notes that work on `key` begins; returns how often it began before and never ended (-1 when all work is to
        stop), and which of the prompts were given up."""
        ...

    def end(self, key: str) -> None:
        """Notes that it ended, well or not."""
        ...

    def give_up(self, prompt_id: str) -> None:
        """Notes that a prompt killed too often."""
        ...


class Guard:
    """Stage: `stage`, with a bounded number of tries for rows that kill it (a crash, memory that runs out).

    A batch that took its process with it twice is made row by row; a row that then does so twice more, alone, gets the
    error "sampler_died", as do all further rows of its prompt. A lost machine counts as a try too, but four times in a
    row is no accident.

    Args:
        stage: takes rows with `pair_id`, `prompt_id` and an `error`, and leaves rows alone whose `error` is not "".
        attempts: what began before.
    """

    def __init__(self, stage: Callable[[Batch], Batch], attempts: Attempts) -> None:
        self.stage = stage
        self.attempts = attempts

    def __call__(self, batch: Batch) -> Batch:
        """Rows in, rows out; no rows when all work is to stop."""
        ids = [str(row) for row in batch["pair_id"]]
        key = f"{ids[0]} and {len(ids) - 1} more" if ids else ""
        tries, given_up = self.attempts.begin(key, [str(prompt) for prompt in batch["prompt_id"]])
        if tries < 0:
            return self.stage({name: values[:0] for name, values in batch.items()})
        batch = refused(batch, given_up)
        if tries < MAX_TRIES:
            made = self.stage(batch)
        else:
            rows = [self._alone(one, slice_of(batch, row)) for row, one in enumerate(ids)]
            made = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        self.attempts.end(key)
        return made

    def _alone(self, pair_id: str, row: Batch) -> Batch:
        key, prompt = f"{pair_id} alone", str(row["prompt_id"][0])
        tries, given_up = self.attempts.begin(key, [prompt])
        if tries >= MAX_TRIES:
            self.attempts.give_up(prompt)
            given_up = frozenset({prompt})
        made = self.stage(refused(row, given_up))
        self.attempts.end(key)
        return made


def refused(batch: Batch, prompt_ids: frozenset[str]) -> Batch:
    """The batch, with the error "sampler_died" in rows of these prompts."""
    if not prompt_ids:
        return batch
    detail = f"the sampler's process died {MAX_TRIES} times on this prompt alone"
    is_refused = [str(prompt) in prompt_ids for prompt in batch["prompt_id"]]
    return {
        **batch,
        "error": np.array(["sampler_died" if one else "" for one in is_refused], object),
        "error_detail": np.array([detail if one else "" for one in is_refused], object),
    }


def slice_of(batch: Batch, row: int) -> Batch:
    """One row of a batch, as a batch."""
    return {name: values[row : row + 1] for name, values in batch.items()}
