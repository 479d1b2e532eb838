"""Tally: what a set holds, counted while it is written, and a few pairs of it to look at."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.pictures.codec import encode_image
from pipeline.pictures.sheets import tile
from pipeline.tables.schema import captions_of

NUM_SHOWN = 8


@dataclass
class Tally:
    """Counts of pairs by what they are.

    Attributes:
        counts: "origin", "source" (data set and split), "bundle", "sampler", "size" (height x width): pairs by value;
            "images", "pixels": by class id; "text": "pairs" with a prompt, all "captions" and all "words" of them.
        shown: pairs to look at: `picture` (PNG as base64: the image above its coloured mask), `pair_id`, `prompt`.
        room: pairs that still find room in `shown`.
    """

    counts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    shown: list[dict[str, str]] = field(default_factory=list)
    room: int = 0

    @classmethod
    def of(cls, index: int, total: int) -> Tally:
        """Of part `index` of `total`, so that all of them together show enough."""
        return cls(room=-(-NUM_SHOWN // total) if index < NUM_SHOWN else 0)

    def add(self, facts: Mapping[str, Any], pixels: np.ndarray, colours: np.ndarray) -> None:
        """Counts a pair: its columns, its picture (H, W, 3) uint8, its mask in colours."""
        source = "/".join(part for part in (facts["dataset"], facts["split"]) if part)
        size = f"{facts['height']} x {facts['width']}"
        for kind, value in (("origin", facts["origin"]), ("source", source), ("size", size)):
            self.counts[kind][value] += 1
        for kind in ("bundle", "sampler"):
            if facts[kind]:
                self.counts[kind][facts[kind]] += 1
        class_ids = [str(class_id) for class_id in facts["class_ids"]]
        self.counts["images"].update(class_ids)
        self.counts["pixels"].update(dict(zip(class_ids, facts["class_pixels"], strict=True)))
        texts = captions_of(facts)
        words = sum(len(text.split()) for text in texts)
        self.counts["text"].update({"pairs": bool(texts), "captions": len(texts), "words": words})
        if self.room:
            self.room -= 1
            picture = base64.b64encode(encode_image(tile(pixels, colours))).decode()
            self.shown.append({"picture": picture, "pair_id": facts["pair_id"], "prompt": facts["prompt"] or ""})

    def dump(self) -> dict[str, Any]:
        """What `joined` reads, as JSON."""
        return {"counts": self.counts, "shown": self.shown}

    @classmethod
    def joined(cls, dumped: Iterable[Mapping[str, Any]]) -> Tally:
        """One of several."""
        total = cls()
        for one in dumped:
            for kind, values in one["counts"].items():
                total.counts[kind].update(values)
            total.shown += one["shown"][: NUM_SHOWN - len(total.shown)]
        return total

    @property
    def num_pairs(self) -> int:
        return self.counts["origin"].total()
