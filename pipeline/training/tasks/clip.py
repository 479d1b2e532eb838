"""Training a small CLIP on the prompts and images of a set, where no pretrained one fits or can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as functional
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from models.draws import Draws
from models.frozen import clip_pixels
from pipeline.base.log import log
from pipeline.runs.run import Run
from pipeline.tables.pairs import decode_pairs
from pipeline.tables.rows import read_shards
from pipeline.tables.schema import Batch
from pipeline.training.config import SAFE_TO_CHANGE, TrainingConfig
from pipeline.training.fit import fit
from pipeline.training.order import groups_of
from pipeline.training.overlap import tell_of_training
from pipeline.training.task import Evaluation, Tensors
from pipeline.training.tasks.pictures import to_float_image

TOKEN_STD = 0.5


class ClipConfig(TrainingConfig):
    """Trains a CLIP from nothing: tokenizer, text tower and image tower."""

    size_px: int = Field(0, ge=0)
    """Side at which the middle of every picture is taken; 0 takes them as they are, all of one size."""
    num_tokens: int = Field(24, ge=3)
    """Tokens of a prompt, start and end included; generation refuses longer prompts."""
    vocabulary: int = Field(700, ge=515)
    """Entries of the tokenizer; 514 are taken by bytes and markers."""
    width: int = Field(64, ge=8)
    """Width of the text embedding."""
    text_layers: int = Field(2, ge=1)
    """Layers of the text tower."""
    image_width: int = Field(128, ge=8)
    """Width of the image tower."""
    image_layers: int = Field(3, ge=1)
    """Layers of the image tower."""
    image_size_px: int = Field(64, ge=16)
    """Side at which the image tower looks."""
    patch_px: int = Field(8, ge=2)
    """Side of one of its patches."""
    projection: int = Field(64, ge=8)
    """Width of the space that prompts and images share; that of the CLIP image token."""

    @model_validator(mode="after")
    def _whole_batches(self) -> ClipConfig:
        if self.optimisation.accumulation > 1:
            raise ValueError(
                "optimisation.accumulation: prompts are told from the others of their part alone, so that parts of a "
                "batch would learn less or nothing; leave it out, and take a smaller optimisation.batch_size where "
                "memory is short"
            )
        return self


def train_clip(config: ClipConfig) -> dict[str, float]:
    """Trains the CLIP and leaves towers and tokenizer in `<run>/weights`; returns held-out retrieval scores."""
    with Run.open(config, "train_clip", SAFE_TO_CHANGE - {"optimisation.accumulation"}) as run:
        folder = run.folder / "tokenizer"
        if not (folder / "tokenizer.json").exists():
            groups_of(config.train, config.slices, prompted=True)  # that there are none at all is told now
            prompts = read_shards(config.train, ["prompt"])["prompt"].drop_null().to_pylist()
            tokenizer = CLIPTokenizer().train_new_from_iterator([prompts], config.vocabulary, show_progress=False)
            tokenizer.model_max_length = config.num_tokens
            tokenizer.save_pretrained(folder)
            tell_of_long(prompts, tokenizer)
        tell_of_training(config)
        return fit(ClipTask(config, str(folder)), config, run)


def tell_of_long(prompts: Sequence[str | None], tokenizer: Any) -> None:
    """Warns where prompts have more tokens than are taken: their ends are not learned, nor are they generated from."""
    lengths = [len(ids) for ids in tokenizer([one or "" for one in prompts], verbose=False)["input_ids"]]
    if long := sum(length > tokenizer.model_max_length for length in lengths):
        log.warning(
            "train_clip: %s of %s prompts have more than %d tokens (up to %d), and their ends are cut off: raise "
            "num_tokens under another --run, and net.num_text_tokens of train_joint with it",
            f"{long:,}", f"{len(prompts):,}", tokenizer.model_max_length, max(lengths),
        )  # fmt: skip


@dataclass(frozen=True)
class ClipTask:
    """Contrastive learning of prompts and images (CLIP, Fig. 3); every worker contrasts within its own batch."""

    config: ClipConfig
    tokenizer: str
    columns: tuple[str, ...] = ("prompt", "image")
    judged_by = ("recall_at_10", -1)

    def decode(self, batch: Batch) -> Batch:
        tokens = _tokenizer(self.tokenizer)(
            [str(prompt) for prompt in batch["prompt"]],
            padding="max_length",
            max_length=self.config.num_tokens,
            truncation=True,
        )
        return {"token_ids": np.array(tokens["input_ids"], np.int64), **decode_pairs(batch, self.config.size_px)}

    def build(self) -> nn.Module:
        config = self.config
        tokenizer = _tokenizer(self.tokenizer)
        sizes: dict[str, Any] = {"hidden_act": "gelu", "projection_dim": config.projection}
        towers = CLIPConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": config.width,
                "intermediate_size": 4 * config.width,
                "num_hidden_layers": config.text_layers,
                "num_attention_heads": max(1, config.width // 16),
                "max_position_embeddings": config.num_tokens,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                **sizes,
            },
            vision_config={
                "hidden_size": config.image_width,
                "intermediate_size": 4 * config.image_width,
                "num_hidden_layers": config.image_layers,
                "num_attention_heads": max(1, config.image_width // 32),
                "image_size": config.image_size_px,
                "patch_size": config.patch_px,
                **sizes,
            },
            projection_dim=config.projection,
        )
        # The fused attention's backward pass is many times slower in bf16 on a CPU, and these towers are small.
        clip = CLIPModel._from_config(towers, attn_implementation="eager")
        # CLIP's own 0.02 lets the layers drown a token in its neighbours within a short training: colours and places
        # suffice to tell most images apart, and the diffusion network then hardly sees the nouns.
        nn.init.normal_(clip.text_model.embeddings.token_embedding.weight, std=TOKEN_STD)
        return clip

    def loss(self, net: nn.Module, batch: Tensors, draws: Draws) -> tuple[Tensor, Tensors]:
        scores = self._scores(net, batch)
        pairs = torch.arange(len(scores), device=scores.device)
        return (functional.cross_entropy(scores, pairs) + functional.cross_entropy(scores.T, pairs)) / 2, {}

    def _scores(self, net: nn.Module, batch: Tensors) -> Tensor:
        """(B, B) float32 logits of image i with prompt j."""
        pixels = clip_pixels(to_float_image(batch["image"]), self.config.image_size_px)
        return net(input_ids=batch["token_ids"], pixel_values=pixels).logits_per_image.float()

    def evaluate(self, net: nn.Module, held_out: Tensors) -> Evaluation:
        scores = self._scores(net, held_out)
        rank = (scores > scores.diag().unsqueeze(1)).sum(1)
        return Evaluation(
            {f"recall_at_{limit}": (rank < limit).float().mean().item() for limit in (1, 10)}, pictures={}
        )

    def save(self, net: nn.Module, examples: Tensors, folder: Path) -> None:
        clip = cast(CLIPModel, net)
        tensors = {name: value.cpu() for name, value in clip.state_dict().items()}
        text = CLIPTextModel(clip.config.text_config)
        vision = CLIPVisionModelWithProjection(clip.config.vision_config)
        for part in (text, vision):
            own = part.state_dict()
            part.load_state_dict({name: _find(tensors, name) for name in own})
        text.save_pretrained(folder / "text_encoder")
        vision.save_pretrained(folder / "image_encoder")
        clip.save_pretrained(folder / "clip")  # whole, for `jobs.score`
        for part_of in ("tokenizer", "clip"):
            _tokenizer(self.tokenizer).save_pretrained(folder / part_of)


@lru_cache(1)
def _tokenizer(folder: str) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _find(tensors: Tensors, name: str) -> Tensor:
    """The tensor of a tower among those of the whole; releases differ in whether a tower's names bear its prefix."""
    for candidate in (name, f"text_model.{name}", f"vision_model.{name}"):
        if candidate in tensors:
            return tensors[candidate]
    raise KeyError(name)
