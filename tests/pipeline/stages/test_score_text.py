"""A CLIP's scores: of the prompt, and of what shuffling the picture changes; the same for a pair each time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from models.labels import LabelSpace
from pipeline.pictures.codec import encode_image
from pipeline.stages.score_text import TEXT, entropy, shuffled, text_scores

LABELS = LabelSpace.custom("mine", ("dog", "grass"))


class Fabricated(nn.Module):
    """Pictures are (share of white in the upper half, in the lower half); texts are what is told."""

    scale = 10.0

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.zeros(1)
        self.read: list[str] = []

    def pictures(self, image):
        halves = image.float().mean(-1).chunk(2, 1)
        found = torch.stack([half.mean((1, 2)) for half in halves], 1)
        return found / found.norm(dim=1, keepdim=True).clamp(min=1)

    def texts(self, texts):
        self.read += texts
        return torch.tensor([[1.0, 0.0] if "dog" in one else [0.0, 1.0] for one in texts])


def rows(*images, prompts, class_ids) -> pa.Table:
    return pa.table({
        "pair_id": [f"{number:032x}" for number in range(len(images))],
        "image": [{"bytes": encode_image(image)} for image in images],
        "prompt": prompts,
        "class_ids": class_ids,
    })  # fmt: skip


@pytest.fixture
def scene() -> np.ndarray:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:8] = 255
    return image


def test_the_prompt_is_compared_and_shuffling_changes_what_is_clear(scene):
    clip = Fabricated()
    flat = np.full_like(scene, 200)
    table = rows(scene, scene, flat, flat, prompts=["a dog", "a sea", "a dog", " "], class_ids=[[0, 1], [0], [1], None])
    made = text_scores(table, clip=clip, labels=LABELS, shuffles=4, made_by="{}").to_pylist()  # type: ignore[arg-type]
    assert [one["clip_similarity"] for one in made] == [1.0, 0.0, pytest.approx(0.7071, abs=1e-4), None]
    assert made[0]["clip_perturbation"] > 0.1 > made[2]["clip_perturbation"] == 0
    assert made[1]["clip_perturbation"] is None and made[3]["clip_perturbation"] is None, "masks without classes"
    assert TEXT.format("grass") in clip.read and sum("grass" in one for one in clip.read) == 1
    again = text_scores(table, clip=Fabricated(), labels=LABELS, shuffles=4, made_by="{}").to_pylist()  # type: ignore[arg-type]
    assert again == made


def test_shuffles_keep_the_parts_and_follow_from_the_pair():
    image = np.arange(17 * 16 * 3, dtype=np.uint32).reshape(17, 16, 3).astype(np.uint8)
    one, other = shuffled(image, "a", 0), shuffled(image, "a", 1)
    assert one.shape == (16, 16, 3) and not np.array_equal(one, other)
    np.testing.assert_array_equal(one, shuffled(image, "a", 0))
    np.testing.assert_array_equal(np.sort(one.ravel()), np.sort(image[:16].ravel()))


def test_entropies_worked_out_by_hand():
    np.testing.assert_allclose(entropy(np.array([[0.0, 0.0], [1000.0, 0.0]])), [np.log(2), 0], atol=1e-9)
