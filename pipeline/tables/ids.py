"""Ids and seeds: they follow from what a row is, never from where or when it is made."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any


def prompt_id(prompt: str) -> str:
    """16 hex digits that name a prompt's exact text."""
    return _digest("prompt", 8, prompt).hex()


def pair_seed(run_seed: int, prompt_id: str, repeat: int) -> int:
    """The seed of a pair's own noise, in [0, 2**63): from what the pair is, never from where or when it is made."""
    return int.from_bytes(_digest("seed", 8, str(run_seed), str(repeat), prompt_id)) >> 1


def redraw_seed(seed: int, draw: int) -> int:
    """The noise seed of a pair's draw number `draw`: its own `seed` for the first one, 0; see `generate --redraws`."""
    return int.from_bytes(_digest("redraw", 8, str(seed), str(draw))) >> 1 if draw else seed


def pair_id(prompt: str, seed: int, bundle_digest: str, sampler_settings: str) -> str:
    """32 hex digits that name a generated pair.

    Args:
        prompt: the text.
        seed: of the pair's noise, see `pair_seed`.
        bundle_digest: of the weights.
        sampler_settings: canonical JSON (see `canonical_json`), as in the column `sampler`.
    """
    return _digest("pair", 16, str(seed), bundle_digest, sampler_settings, prompt).hex()


def real_pair_id(dataset: str, key: str) -> str:
    """32 hex digits that name an ingested pair: the data set, and the pair's name within it."""
    return _digest("real", 16, dataset, key).hex()


def labelled_pair_id(pair_id: str, made_by: str) -> str:
    """32 hex digits that name a picture with a mask of a teacher.

    Args:
        pair_id: of the picture.
        made_by: canonical JSON of who made the mask and how, as in the column `sampler`.
    """
    return _digest("labelled", 16, made_by, pair_id).hex()


def latent_id(pair_id: str, flipped: bool = False, crop: int = 0, caption: int = 0) -> str:
    """The key of a pair's latents: each further crop and caption of it, and its mirrored picture, has its own."""
    parts = [f"crop{crop}" if crop else "", f"caption{caption}" if caption else "", "flipped" if flipped else ""]
    return "-".join([pair_id, *(part for part in parts if part)])


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: keys sorted, no spaces. ValueError or TypeError where there is none."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def text_digest(value: Any) -> str:
    """16 hex digits of `value`'s canonical JSON."""
    return blake2b(canonical_json(value).encode(), digest_size=8).hexdigest()


def _digest(kind: str, size: int, *parts: str) -> bytes:
    # Only the last part may hold a NUL (a prompt is any text), so that no two lists of parts give the same bytes.
    return blake2b("\0".join(parts).encode(), digest_size=size, person=kind.encode()).digest()
