"""Regenerate: one pair again, alone, from its row, and the comparison with what the row holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

import numpy as np
import pyarrow.compute as pc

from models.reverse import LATER, SamplerSettings
from models.weights import ENCODERS, JOINT, digest
from pipeline.base.errors import ConfigError, DataError
from pipeline.stages.redraw import SampleUntilExact
from pipeline.stages.refine import refine_masks
from pipeline.stages.sample import SamplePairs, SamplePictures
from pipeline.storage.copies import local_copy
from pipeline.tables.conform import object_column
from pipeline.tables.pairs import decode_pairs, unpack_pair
from pipeline.tables.rows import read_columns, read_keys
from pipeline.tables.schema import Batch
from pipeline.tables.selection import require_run
from pipeline.tables.shards import list_shards, map_shards


@dataclass(frozen=True)
class Comparison:
    """A pair that was made again beside the one in the shards."""

    image: np.ndarray
    mask: np.ndarray
    differing_image_values: int
    largest_image_difference: int
    differing_mask_pixels: int

    @property
    def equal(self) -> bool:
        """Whether not one number differs."""
        return not self.differing_image_values and not self.differing_mask_pixels


def find_row(folder: str, pair_id: str) -> dict[str, object]:
    """The row of a pair in a run; only the shard that holds it is read.

    Raises:
        DataError: the run has no such pair.
    """
    require_run(folder)
    paths = list_shards(folder)
    for path, keys in zip(paths, map_shards(read_keys, paths), strict=True):
        if pc.any(pc.equal(keys, pair_id)).as_py():
            rows = read_columns(path)
            return rows.filter(pc.equal(rows.column(0), pair_id)).to_pylist()[0]
    raise DataError(f"{folder}: holds no pair {pair_id}; check `pair_id` against the shards")


def compare(row: dict[str, object], bundle: str, device: str = "cpu") -> Comparison:
    """Makes the pair of `row` again and compares. An image that was kept as JPEG is compared through the same codec's
    loss: small differences are its own.

    Raises:
        ConfigError, DataError: as `regenerate`.
    """
    made = regenerate(row, bundle, device)
    image, mask = made["image"][0], made["mask"][0]
    kept = unpack_pair(row, None, f"pair {row['pair_id']}")
    difference = np.abs(image.astype(int) - kept.image)
    return Comparison(image, mask, int((difference > 0).sum()), int(difference.max()), int((mask != kept.mask).sum()))


def regenerate(row: dict[str, object], bundle: str, device: str = "cpu") -> Batch:
    """Makes one pair again, alone: same noise, and on the same kind of device the same pixels and mask.

    Args:
        row: a row of PAIR, at least `prompt`, `seed`, `bundle` and `sampler`.
        bundle: folder of the weights, a path or a URL.
        device: to sample on.

    Returns:
        `image` (1, H, W, 3), `mask` (1, H, W), and what else the stages give.

    Raises:
        ConfigError: the row was made with other weights, by another version of this project, or not made at all.
    """
    if row["sampler"] is None:
        raise ConfigError("the row is a real pair; only generated ones can be made again")
    folder = str(local_copy(bundle))
    found = digest(folder, ENCODERS + JOINT)
    if found != row["bundle"]:
        raise ConfigError(f"the row was made with bundle {row['bundle']}, but {bundle} is {found}")
    settings = json.loads(str(row["sampler"]))
    known = {field.name for field in fields(SamplerSettings)}
    if differing := (known ^ set(settings["sampler"])) - set(LATER):
        raise ConfigError(
            f"the row was made by another version of this project, whose sampler settings differ in "
            f"{', '.join(sorted(differing))}; use that version"
        )
    alone: Batch = {name: object_column([row.get(name)]) for name in ("prompt", "prompt_class_ids")}
    alone["seed"] = np.array([row["seed"]])
    if "multiply" in settings:
        alone["mask"] = decode_pairs({"mask": object_column([row["mask"]])})["mask"]
        return SamplePictures(folder, SamplerSettings(**settings["sampler"]), device)(alone)
    stage = SamplePairs(folder, SamplerSettings(**settings["sampler"]), device)
    draw = SampleUntilExact(stage, **settings.get("redraws", {"redraws": 0, "refine": settings["refine"]}))
    sampled = draw(alone)
    return refine_masks(sampled, **settings["refine"], ignore_index=stage.sampler.bundle.encoders.labels.ignore_index)
