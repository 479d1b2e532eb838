"""Marks: pairs that somebody picked by eye, as the file that the page of a gallery saves."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.base.errors import DataError
from pipeline.base.log import log
from pipeline.base.places import as_given
from pipeline.storage.files import read_bytes

MAX_NAMED = 5


class MarkedRun(BaseModel):
    """Marked pairs of one run."""

    model_config = ConfigDict(extra="forbid")
    name: str
    """What the gallery calls it."""
    pairs: str
    """Its folder, as the gallery was given it; runs move, so that ids alone say what is meant."""
    ids: tuple[str, ...]
    """Of the pairs."""


class Marks(BaseModel):
    """`marks.json` of a gallery."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1]
    gallery: str
    """Its title."""
    runs: tuple[MarkedRun, ...]


def read_marks(path: str, ids: pa.ChunkedArray) -> np.ndarray:
    """(N,) bool: which of some pairs are marked. A gallery may show several runs, which may share pairs; marks of other
    pairs are passed over where all of one run are among these.

    Raises:
        DataError: no such file, marks of other pairs alone, or of no run all are among these.
    """
    try:
        marks = Marks.model_validate_json(read_bytes(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"marks: there is no file {as_given(path)}; the page of a gallery saves one") from error
    except ValidationError as error:
        raise DataError(
            f"marks: {as_given(path)} is not what the page of a gallery saves ({error.errors()[0]['msg']}); save it "
            "again"
        ) from error
    if not any(run.ids for run in marks.runs):
        raise DataError(f"marks: {as_given(path)} marks no pair; mark some in the gallery and save it again")
    there, marked = set(ids.to_pylist()), [run for run in marks.runs if run.ids]
    shared = [run for run in marked if not there.isdisjoint(run.ids)]
    if not shared:
        runs = ", ".join(run.name for run in marked)
        raise DataError(
            f"marks: {as_given(path)} marks none of these pairs, but some of {runs}; give that run as `pairs`"
        )
    if not any(there.issuperset(run.ids) for run in shared):  # else that one is meant, and others overlap with it
        run = shared[0]
        unknown = [one for one in run.ids if one not in there]
        named = ", ".join(unknown[:MAX_NAMED]) + (", ..." if len(unknown) > MAX_NAMED else "")
        raise DataError(
            f"marks: {len(unknown):,} of {len(run.ids):,} pairs of {run.name} in {as_given(path)} are not among "
            f"these pairs: {named}; give the run or selection that the gallery shows"
        )
    for run in marked:
        if num := len(set(run.ids) - there):
            log.info("curate: %s marks of another run, %s, are passed over", f"{num:,}", run.name)
    wanted = [one for run in shared for one in run.ids]
    return pc.is_in(ids, pa.array(wanted, pa.string())).to_numpy()
