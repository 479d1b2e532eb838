"""EncodePairs: pairs -> what the joint network trains on, by the frozen encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from models.frozen import clip_image_embedding, image_to_latent
from models.weights import Encoders
from pipeline.base.errors import DataError, MaskError
from pipeline.pictures.codec import decode_image
from pipeline.pictures.squares import View, centre, require_one_size, seen, seen_mask, somewhere
from pipeline.prompts.mirror import SIDES, mirrored_prompt
from pipeline.storage.copies import local_copy
from pipeline.tables.conform import object_column
from pipeline.tables.ids import latent_id
from pipeline.tables.pairs import encoded, has_mask, unpack_pair
from pipeline.tables.schema import Batch, captions_of

ENCODED_PIXELS = 2**20
"""Of the pictures that the encoders take at once, four of 512 x 512: autoencoders have hundreds of channels."""
LATENTS = ("image_latent", "mask_latent", "image_embedding", "text_embedding")
FACTS = ("latent_id", "pair_id", "flipped", "crop", "caption", "box")


@dataclass(frozen=True)
class Views:
    """What is encoded of a pair; every combination is a row.

    Attributes:
        size_px: side of what the encoders see; 0 is the whole picture as it is.
        crops: squares beside the one in the middle.
        crop_scale: least side of those, as a share of the picture's shorter side.
        captions: captions, at most; pairs with fewer give fewer rows.
        flip: also everything mirrored.
        mirrored_words: what changes places in the texts of mirrored pictures.
    """

    size_px: int = 0
    crops: int = 0
    crop_scale: float = 1.0
    captions: int = 1
    flip: bool = False
    mirrored_words: Mapping[str, str] = field(default_factory=SIDES.copy)

    def ids(self, pair_id: str, num_captions: int) -> list[str]:
        """Keys of the rows of a pair that has so many captions."""
        return [latent_id(pair_id, *one) for one in self._rows(num_captions)]

    def of(self, pair_id: str, image: np.ndarray, mask: np.ndarray, texts: list[str]) -> list[dict[str, Any]]:
        """The rows of a pair: `latent_id`, `flipped`, `crop`, `caption`, `box`, `text`, and `pixels` and `ids` as the
        encoders see them. `image` is (H, W, 3) uint8, `mask` (H, W).

        Raises:
            ValueError: a text that cannot be mirrored.
        """
        height, width = mask.shape
        further = (somewhere(height, width, self.crop_scale, key=f"{pair_id}/{n}") for n in range(self.crops))
        looks = [self._look(image, mask, view) for view in (centre(height, width), *further)]
        rows = []
        for flipped, crop, caption in self._rows(len(texts)):
            pixels, ids, box = looks[crop]
            rows.append(
                {
                    "latent_id": latent_id(pair_id, flipped, crop, caption),
                    "pair_id": pair_id,
                    "flipped": flipped,
                    "crop": crop,
                    "caption": caption,
                    "box": box,
                    "text": self.text(texts[caption], flipped) if texts else "",
                    "pixels": pixels[:, ::-1] if flipped else pixels,
                    "ids": ids[:, ::-1] if flipped else ids,
                }
            )
        return rows

    def text(self, text: str, flipped: bool = True) -> str:
        """What is said of a picture that is mirrored or not."""
        return mirrored_prompt(text, self.mirrored_words) if flipped else text

    def _rows(self, num_captions: int) -> list[tuple[bool, int, int]]:
        return [
            (flipped, crop, caption)
            for flipped in ((False, True) if self.flip else (False,))
            for crop in range(1 + self.crops)
            for caption in range(min(self.captions, max(num_captions, 1)))
        ]

    def _look(self, image: np.ndarray, mask: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self.size_px:
            return image, mask, np.array([0, 0, image.shape[1], image.shape[0]], np.float32)
        box = np.array(view.box, np.float32)
        return seen(image, view, self.size_px), seen_mask(mask, view, self.size_px), box


class EncodePairs:
    """Stage: the columns of PAIR that `pipeline.encode` reads -> rows of LATENT, those in the middle unmirrored first.
    A pair that cannot be read gives one row with an `error`.

    Args:
        encoders: folder or URL of the frozen encoders.
        views: what is encoded of a pair.
        device: of the encoders.
        batch_size: rows that the encoders take at once.
    """

    def __init__(self, encoders: str, views: Views = Views(), device: str = "cpu", batch_size: int = 64) -> None:
        self.device = torch.device(device)
        self.encoders = Encoders.load(local_copy(encoders)).to(self.device)
        self.views, self.batch_size = views, batch_size

    def __call__(self, batch: Batch) -> Batch:
        rows: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for number in range(len(batch["pair_id"])):
            row = {name: values[number] for name, values in batch.items()}
            if row.get("error"):  # given up before it came here
                failed.append({name: str(row[name]) for name in ("pair_id", "error", "error_detail")})
                continue
            try:
                rows += self._views(row)
            except DataError as error:
                reason = "wrong_mask" if isinstance(error, MaskError) else "undecodable_input"
                failed.append({"pair_id": str(row["pair_id"]), "error": reason, "error_detail": str(error)})
        latents: list[dict[str, Any]] = []
        for start in range(0, len(rows), self.batch_size):
            latents += self._encoded(rows[start : start + self.batch_size])
        return _columns([*latents, *failed])

    def _views(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        key, labels = str(row["pair_id"]), self.encoders.labels
        labelled, unsure = has_mask(row), False
        if labelled:
            image, mask, class_ids, _ = unpack_pair(row, labels, f"pair {key}")
            # What a teacher was not sure of is not learned; what people left void is part of their masks.
            unsure = row.get("origin") == "labelled" and labels.ignore_index in class_ids
        else:
            image = decode_image(encoded(row, "image"), f"pair {key}, image")
            mask = np.zeros(image.shape[:2], labels.dtype)
        views = self.views.of(key, image, mask, captions_of(row))
        for view in views:
            known = view["ids"] != labels.ignore_index if unsure else None
            view |= {"has_mask": labelled, "known": known}
            if known is not None:
                view["ids"] = nearest_known(view["ids"], known)
        return views

    @torch.inference_mode()
    def _encoded(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        require_one_size({row["ids"].shape for row in rows})
        # Rows that differ in their caption alone share what is seen, and it is encoded once.
        looks = list({_look_of(row): row for row in rows}.values())
        place = {_look_of(row): number for number, row in enumerate(looks)}
        pixels, class_ids = (
            torch.from_numpy(np.stack([row[name] for row in looks])).to(self.device) for name in ("pixels", "ids")
        )
        at_once = max(1, ENCODED_PIXELS // class_ids[0].numel())
        of_looks: list[tuple[bytes, ...]] = []
        for some_pixels, some_ids in zip(pixels.split(at_once), class_ids.split(at_once), strict=True):
            of_looks += self._seen(some_pixels, some_ids)
        texts = _halves(self.encoders.text([row["text"] for row in rows]))
        made = []
        for row, text in zip(rows, texts, strict=True):
            latents = dict(zip(LATENTS, (*of_looks[place[_look_of(row)]], text), strict=True))
            if not row["has_mask"]:
                latents["mask_latent"] = b""
            elif row["known"] is not None:
                latents["mask_weight"] = self._weights(row["known"])
            made.append({**{name: row[name] for name in FACTS}, **latents})
        return made

    def _weights(self, known: np.ndarray) -> bytes:
        """(H, W) bool -> the share of each cell of the mask's latent, (h, w)."""
        cell = self.encoders.annotation_vae.config.downsampling
        height, width = known.shape[0] // cell, known.shape[1] // cell
        return known.reshape(height, cell, width, cell).mean((1, 3)).astype("<f2").tobytes()

    def _seen(self, pixels: Tensor, class_ids: Tensor) -> Iterator[tuple[bytes, ...]]:
        """What (B, H, W, 3) and (B, H, W) become: for each row all of LATENTS but the text."""
        encoders, signal = self.encoders, pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        columns = (
            image_to_latent(encoders.image_vae, signal),
            encoders.annotation_vae.normalize(encoders.annotation_vae.encode(class_ids).mean),
            clip_image_embedding(encoders.clip_image, signal),
        )
        return zip(*map(_halves, columns), strict=True)


def nearest_known(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W) class ids with those of the nearest known pixel where none is `known`, so that a mask without weight in a
    cell still is one that the encoder knows; unchanged where nothing is known."""
    if not known.any():
        return ids
    rows, columns = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return ids[rows, columns]


def _look_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["pair_id"], row["crop"], row["flipped"]


def _columns(rows: list[dict[str, Any]]) -> Batch:
    """Rows, made or failed -> columns of the same types in every batch."""
    nothing: dict[str, Any] = {"latent_id": "", "pair_id": "", "flipped": False, "crop": 0, "caption": 0}
    nothing |= {"box": np.zeros(4, np.float32), **dict.fromkeys(LATENTS, b""), "mask_weight": b""}
    nothing |= {"error": "", "error_detail": ""}
    columns = {name: object_column(row.get(name, default) for row in rows) for name, default in nothing.items()}
    kinds = {"flipped": bool, "crop": np.int32, "caption": np.int32}
    return {name: values.astype(kinds[name]) if name in kinds else values for name, values in columns.items()}


def _halves(values: Tensor) -> list[bytes]:
    """(B, ...) -> each row's float16 numbers as bytes, C order."""
    return [numbers.tobytes() for numbers in values.float().cpu().numpy().astype("<f2")]
