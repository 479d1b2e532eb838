"""Scores of pairs by a CLIP: whether the picture shows what the prompt says, and whether it shows anything at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.clip import Clip, load_clip
from models.labels import LabelSpace
from pipeline.pictures.codec import decode_image
from pipeline.prompts.classes import spoken
from pipeline.tables.pairs import encoded
from pipeline.tables.scores import score_schema

READ = ("pair_id", "image", "prompt", "class_ids")
BACKGROUND = (
    "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea", "railway",
    "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock", "street", "valley",
    "bridge", "sign",
)  # fmt: skip
"""What else a picture may show (SDS's words for VOC); those that are classes are left out."""
TEXT = "a clean origami {}"
PARTS = 4
"""A shuffled picture is cut into 4 x 4 parts."""


def text_scores(rows: pa.Table, *, clip: Clip, labels: LabelSpace, shuffles: int, made_by: str) -> pa.Table:
    """Stage: packed pairs -> their scores by a CLIP.

    Args:
        rows: the columns READ of PAIR.
        clip: on its device.
        labels: of the masks.
        shuffles: of each picture that `clip_perturbation` is the mean over.
        made_by: the column `text_by`.
    """
    classes = [spoken(name) for name in labels.classes]
    others = [word for word in BACKGROUND if word not in classes]
    words = _texts(clip, tuple(TEXT.format(name) for name in (*classes, *others)))
    made = []
    for row in rows.to_pylist():
        image = decode_image(encoded(row, "image"), f"pair {row['pair_id']}, image")
        views = [image, *(shuffled(image, row["pair_id"], number) for number in range(shuffles))]
        seen = _seen(clip, views)
        score: dict[str, Any] = {"pair_id": row["pair_id"], "text_by": made_by}
        if prompt := (row["prompt"] or "").strip():
            score["clip_similarity"] = float(seen[0] @ _texts(clip, (prompt,))[0])
        shown = [one for one in row["class_ids"] or () if 0 < one <= labels.num_classes]
        if shown and shuffles:
            chosen = words[[*shown, *range(len(classes), len(words))]]
            surprise = entropy(clip.scale * seen @ chosen.T)
            score["clip_perturbation"] = float(np.abs(surprise[0] - surprise[1:]).mean())
        made.append(score)
    return pa.Table.from_pylist(made, schema=score_schema("text"))


def make_text(source: str, labels: LabelSpace, shuffles: int, made_by: str, device: str) -> Callable[[Any], Any]:
    """The stage of a process that holds a CLIP."""
    return partial(text_scores, clip=load_clip(source).to(device), labels=labels, shuffles=shuffles, made_by=made_by)


def shuffled(image: np.ndarray, pair_id: str, number: int) -> np.ndarray:
    """A picture (H, W, 3) cut into 4 x 4 parts in another order, which follows from the pair and the number; rows and
    columns that do not divide evenly are left out."""
    side = [max(1, length // PARTS) for length in image.shape[:2]]
    parts = [
        image[top * side[0] : (top + 1) * side[0], left * side[1] : (left + 1) * side[1]]
        for top in range(PARTS)
        for left in range(PARTS)
    ]
    drawn = blake2b(f"{number} {pair_id}".encode(), digest_size=8).digest()
    order = np.random.default_rng(int.from_bytes(drawn)).permutation(len(parts))
    rows = [np.concatenate([parts[one] for one in some], 1) for some in order.reshape(PARTS, PARTS)]
    return np.concatenate(rows, 0)


def entropy(logits: np.ndarray) -> np.ndarray:
    """(V, T) -> (V,) entropies of the shares, in nats."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return -(shares * np.log(np.maximum(shares, 1e-12))).sum(1)


@torch.no_grad()
def _texts(clip: Clip, texts: Sequence[str]) -> np.ndarray:
    return clip.texts(texts).cpu().numpy()


@torch.no_grad()
def _seen(clip: Clip, views: list[np.ndarray]) -> np.ndarray:
    device = clip.net.device
    return torch.cat([clip.pictures(torch.from_numpy(one[None]).to(device)) for one in views]).cpu().numpy()
