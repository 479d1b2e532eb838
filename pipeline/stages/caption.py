"""CaptionPairs: real pairs get captions, by whatever looks at their pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline.base.errors import DataError
from pipeline.pictures.codec import decode_image
from pipeline.tables.conform import conform
from pipeline.tables.ids import pair_seed
from pipeline.tables.schema import PAIR


class Captions(Protocol):
    """Such as a `models.captioner.Captioner` with its settings."""

    def __call__(self, images: list[np.ndarray], *, seeds: list[int]) -> list[list[str]]:
        """Pictures (H, W, 3) uint8, and a seed for each -> the captions of each."""
        ...


class CaptionPairs:
    """Stage: rows of PAIR -> the same with `prompt`, the first caption, and `captions`, all that differ.

    Takes Arrow rows, so that every other column, nulls included, passes as it is. Adds `error` with `error_detail`: ""
    or why there is no caption.

    Args:
        load: makes the captioner; called when the first row needs it.
        batch_size: pictures that the captioner always gets: fewer are filled up, so that they round alike.
        run_seed: sampled captions follow from it and from the pair's id.
        keep: leave rows alone that have captions.
    """

    def __init__(self, load: Callable[[], Captions], *, batch_size: int, run_seed: int = 0, keep: bool = True) -> None:
        self.load, self.batch_size, self.run_seed, self.keep = load, batch_size, run_seed, keep
        self.captions: Captions | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """At most `batch_size` rows.

        Raises:
            DataError: the device has too little memory.
        """
        rows = conform(rows, PAIR)
        prompts, captions = rows["prompt"].to_pylist(), rows["captions"].to_pylist()
        errors, details = [""] * rows.num_rows, [""] * rows.num_rows
        images: dict[int, np.ndarray] = {}
        for row in np.flatnonzero(~(has_captions(rows) & self.keep)).tolist():
            try:
                encoded = rows["image"][row].as_py()["bytes"]
                images[row] = decode_image(encoded, f"image of {rows['pair_id'][row].as_py()}")
            except DataError as error:
                errors[row], details[row] = "undecodable_input", str(error)
        for row, found in zip(images, self._captions(rows["pair_id"].to_pylist(), images), strict=True):
            captions[row] = list(dict.fromkeys(text for one in found if (text := one.strip())))
            if not captions[row]:
                errors[row], details[row] = "no_caption", "the captioner found no words for the picture"
            else:
                prompts[row] = captions[row][0]
        made = {"prompt": prompts, "captions": captions}
        for name, values in made.items():
            column = rows.schema.get_field_index(name)
            rows = rows.set_column(column, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
        return rows.append_column("error", pa.array(errors, pa.string())).append_column(
            "error_detail", pa.array(details, pa.string())
        )

    def _captions(self, ids: list[str], images: dict[int, np.ndarray]) -> list[list[str]]:
        """Captions of the pictures of rows, in their order."""
        if not images:
            return []
        if self.captions is None:
            self.captions = self.load()
        seeds = [pair_seed(self.run_seed, ids[row], 0) for row in images]
        pictures, spare = list(images.values()), self.batch_size - len(images)
        try:
            made = self.captions(pictures + pictures[-1:] * spare, seeds=seeds + seeds[-1:] * spare)
        except torch.OutOfMemoryError as error:
            raise DataError(
                f"the captioner ran out of memory with batch_size {self.batch_size}: lower it, or take a device with "
                f"more memory. {error}"
            ) from error
        return made[: len(images)]


def has_captions(rows: pa.Table) -> np.ndarray:
    """Which rows, of the columns `prompt` and `captions`, hold any text; (N,) bool."""
    prompts = pc.utf8_trim_whitespace(pc.fill_null(rows["prompt"], ""))
    counts = pc.fill_null(pc.list_value_length(rows["captions"]), 0)
    return pc.or_(pc.not_equal(prompts, ""), pc.greater(counts, 0)).to_numpy()
