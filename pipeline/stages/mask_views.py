"""How a mask is seen that a picture is made for: mirrored, larger or smaller, moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from models.labels import LabelSpace
from pipeline.base.config import Config
from pipeline.base.errors import DataError
from pipeline.pictures.squares import centre, seen_mask
from pipeline.prompts.mirror import SIDES, mirrored_prompt
from pipeline.tables.conform import object_column
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.schema import Batch


class MaskViews(Config):
    """How masks are seen. Each picture has a view of its own, drawn by its seed."""

    flip: bool = True
    """Mirror half of them; in their prompts `mirrored_words` change places."""
    mirrored_words: dict[str, str] = Field(default_factory=SIDES.copy)
    """Words that are each other's opposite in a mirrored picture, {left: right}. Prompts with longer words that hold
    one, such as "leftmost", are refused until they are named too, those that say no side ("bright") with themselves;
    common ones of these are known. {} leaves prompts as they are."""
    scale: tuple[float, float] = (1.0, 1.0)
    """How large things are seen, drawn between these: 0.5 is half as large, 2 twice."""
    shift: float = Field(0.0, ge=0, le=1)
    """How far they are moved at most, as a share of the picture's shorter side, both ways."""

    @model_validator(mode="after")
    def _can_be_seen(self) -> MaskViews:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale goes from a number above 0 to one that is not smaller, got {self.scale}")
        return self

    def flips(self, seed: int) -> bool:
        """Whether the picture of a seed is mirrored."""
        return self.flip and bool(self._drawn(seed)[0] < 0.5)

    def prompt(self, text: str, seed: int) -> str:
        """What is said of the picture of a seed.

        Raises:
            ValueError: a text that cannot be mirrored.
        """
        return mirrored_prompt(text, self.mirrored_words) if self.flips(seed) else text

    def mask(self, mask: np.ndarray, seed: int, size_px: int, labels: LabelSpace) -> np.ndarray:
        """(H, W) class ids -> (size_px, size_px) of the picture of a seed.

        A view that loses a class altogether is not taken: the prompt would name what nobody sees. The mask is then seen
        as it is, mirrored where its prompt is.

        Args:
            mask: as people drew it; its middle square is what is seen of it.
            seed: of the picture.
            size_px: of the network.
            labels: of the mask; what lies beyond its edges is background, or unknown where there is none.
        """
        whole = seen_mask(mask, centre(*mask.shape), size_px)
        _, size, down, right = self._drawn(seed)
        scale = float(np.exp(np.log(self.scale[0]) + size * np.log(self.scale[1] / self.scale[0])))
        moved = [self.shift * (2 * one - 1) for one in (down, right)]
        if scale != 1 or any(moved):
            steps = (np.arange(size_px) + 0.5) / size_px - 0.5
            places = [np.floor((0.5 + steps / scale - one) * size_px).astype(int) for one in moved]
            inside = [(place >= 0) & (place < size_px) for place in places]
            view = np.full_like(whole, 0 if labels.zero == "background" else labels.ignore_index)
            view[np.ix_(*inside)] = whole[np.ix_(*(place[into] for place, into in zip(places, inside, strict=True)))]
            if {*np.unique(whole)} - {0, labels.ignore_index} <= {*np.unique(view)}:
                whole = view
        return np.ascontiguousarray(whole[:, ::-1] if self.flips(seed) else whole)

    def _drawn(self, seed: int) -> np.ndarray:
        """Four numbers in [0, 1): for whether it is mirrored, how large it is, how far moved down and to the right."""
        return np.random.default_rng(seed).random(4)


def seen_masks(
    batch: Batch,
    pictures: Mapping[str, Sequence[tuple[str, str, int]]],
    views: MaskViews,
    size_px: int,
    labels: LabelSpace,
) -> Batch:
    """Stage: packed pairs -> a row for each picture that is to be made of them: `pair_id`, `prompt`, `seed`, `mask`
    (B, size_px, size_px), and an `error` where the mask cannot be read.

    Args:
        batch: `pair_id` and `mask` of PAIR.
        pictures: id of a pair -> id, prompt and seed of each picture; other pairs are passed over.
        views: how masks are seen.
        size_px: of the network.
        labels: of the masks.
    """
    rows: list[dict[str, Any]] = []
    masks: list[np.ndarray] = []
    for source, encoded in zip(batch["pair_id"], batch["mask"], strict=True):
        asked = pictures.get(str(source), ())
        error, whole = "", np.zeros((size_px, size_px), labels.dtype)
        try:
            whole = decode_pairs({"mask": object_column([encoded])})["mask"][0] if asked else whole
        except DataError as wrong:
            error = str(wrong)
        for pair_id, prompt, seed in asked:
            masks.append(views.mask(whole, seed, size_px, labels).astype(labels.dtype))
            rows.append({"pair_id": pair_id, "prompt": prompt, "error_detail": error, "seed": seed})
    texts = {name: object_column(row[name] for row in rows) for name in ("pair_id", "prompt", "error_detail")}
    return {
        **texts,
        "seed": np.array([row["seed"] for row in rows], np.int64),
        "mask": np.stack(masks) if masks else np.zeros((0, size_px, size_px), labels.dtype),
        "error": object_column("undecodable_input" if text else "" for text in texts["error_detail"]),
    }
