"""Scores of pairs by a network that was trained to find pictures that nobody wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator

from models.picture_classifier import load_picture_classifier, names_of
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.places import NameOrPlace
from pipeline.pictures.codec import decode_image
from pipeline.tables.pairs import encoded
from pipeline.tables.scores import score_schema

READ = ("pair_id", "image")
Sees = Callable[[np.ndarray], np.ndarray]
"""(1, H, W, 3) uint8 -> (1, C) float32, shares of the names."""


class Safety(Config):
    """What finds pictures that nobody wants."""

    model: NameOrPlace = ""
    """A network for image classification as transformers has them, such as one that calls a picture "nsfw" or
    "normal": a folder or a name on the Hugging Face hub."""
    names: tuple[str, ...] = Field(("nsfw",), min_length=1)
    """What it calls a picture that nobody wants, in any case."""

    @model_validator(mode="after")
    def _has_a_model(self) -> Safety:
        if not self.model and self.names != type(self).model_fields["names"].default:
            raise ValueError("names are for a network that finds such pictures: give `safety.model`, or leave them out")
        return self


def safety_scores(rows: pa.Table, *, sees: Sees, unwanted: Sequence[int], made_by: str) -> pa.Table:
    """Stage: packed pairs -> how likely their pictures are what nobody wants.

    Args:
        rows: the columns READ of PAIR.
        sees: the network; pictures may be of any size, so it is given one at a time.
        unwanted: places of the names that are not wanted.
        made_by: the column `safety_by`.
    """
    made = []
    for row in rows.to_pylist():
        image = decode_image(encoded(row, "image"), f"pair {row['pair_id']}, image")
        share = float(sees(image[None])[0, list(unwanted)].sum())
        made.append({"pair_id": row["pair_id"], "unsafe": share, "safety_by": made_by})
    return pa.Table.from_pylist(made, schema=score_schema("safety"))


def make_safety(safety: Safety, made_by: str, device: str) -> Callable[[Any], Any]:
    """The stage of a process that holds the network."""
    net = load_picture_classifier(safety.model).to(device)

    @torch.no_grad()
    def sees(image: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(image).to(device)).cpu().numpy()

    return partial(safety_scores, sees=sees, unwanted=places_of(safety), made_by=made_by)


def places_of(safety: Safety) -> list[int]:
    """Where the names that nobody wants stand among those of the network.

    Raises:
        ConfigError: a name that it does not know.
        WeightsError: no such network.
    """
    names = names_of(safety.model)
    known = {name.lower(): place for place, name in enumerate(names)}
    if unknown := [name for name in safety.names if name.lower() not in known]:
        raise ConfigError(
            f"safety.names: {', '.join(unknown)} is nothing that {safety.model} calls a picture; it knows "
            f"{', '.join(names)}"
        )
    return [known[name.lower()] for name in safety.names]
