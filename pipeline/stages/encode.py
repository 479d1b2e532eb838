"""EncodePairs: pairs -> what the joint network trains on, by the frozen encoders."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.frozen import clip_image_embedding, image_to_latent
from models.weights import Encoders
from pipeline.codec import check_mask, decode_image, decode_mask
from pipeline.schema import Batch, latent_id


class EncodePairs:
    """Stage: `pair_id`, `prompt`, `image`, `mask` as PAIR holds them -> rows of LATENT.

    Args:
        encoders: folder of the frozen encoders.
        flip: adds a row for each pair's mirror image; its prompt stays as it is.
        device: of the encoders.
        threads: torch threads, 0 for torch's choice.
    """

    def __init__(self, encoders: str, flip: bool = False, device: str = "cpu", threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.encoders = Encoders.load(encoders).to(self.device)
        self.flip = flip

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Batch:
        ids = [str(pair_id) for pair_id in batch["pair_id"]]
        image = np.stack(
            [decode_image(cell["bytes"], f"image of {row}") for cell, row in zip(batch["image"], ids, strict=True)]
        )
        mask = np.stack(
            [decode_mask(cell["bytes"], f"mask of {row}") for cell, row in zip(batch["mask"], ids, strict=True)]
        )
        for one, row in zip(mask, ids, strict=True):
            check_mask(one, self.encoders.labels, f"mask of {row}")
        text = _halves(self.encoders.text([str(prompt) for prompt in batch["prompt"]]))
        parts = []
        for flipped in (False, True) if self.flip else (False,):
            pixels, class_ids = (
                torch.from_numpy(np.ascontiguousarray(values[:, :, ::-1] if flipped else values)).to(self.device)
                for values in (image, mask)
            )
            signal = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
            annotation_vae = self.encoders.annotation_vae
            parts.append(
                {
                    "latent_id": np.array([latent_id(row, flipped) for row in ids], object),
                    "pair_id": np.array(ids, object),
                    "flipped": np.full(len(ids), flipped),
                    "image_latent": _halves(image_to_latent(self.encoders.image_vae, signal)),
                    "mask_latent": _halves(annotation_vae.normalize(annotation_vae.encode(class_ids).mean)),
                    "image_embedding": _halves(clip_image_embedding(self.encoders.clip_image, signal)),
                    "text_embedding": text,
                }
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _halves(values: Tensor) -> np.ndarray:
    """(B, ...) -> (B,) objects: each row's float16 numbers as bytes, C order."""
    halves = values.float().cpu().numpy().astype("<f2")
    column = np.empty(len(halves), object)
    for row, numbers in enumerate(halves):
        column[row] = numbers.tobytes()
    return column
