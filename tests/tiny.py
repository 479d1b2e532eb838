"""A bundle with random weights that samples 16 x 16 pairs in milliseconds, and small sets of pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.diffusion import Diffusion
from models.frozen import TextEncoder
from models.jodiffusion import JoDiffusion, JoDiffusionConfig
from models.labels import GARMENTS
from models.weights import Bundle, Encoders
from pipeline.datasets.builtin import BuiltinScenes
from pipeline.pictures.codec import encode_image, encode_mask
from pipeline.tables.conform import conform
from pipeline.tables.ids import real_pair_id
from pipeline.tables.schema import PAIR
from pipeline.tables.shards import write_table

SIZE_PX = 16
NUM_TOKENS = 12
NET = JoDiffusionConfig(
    latent_size=4,
    num_heads=2,
    head_width=8,
    num_layers=2,
    num_text_tokens=NUM_TOKENS,
    text_width=16,
    text_bottleneck=8,
    clip_image_width=8,
)


def tiny_encoders(num_tokens: int = NUM_TOKENS) -> Encoders:
    """Random encoders of 16 x 16 pictures with latents of 4 x 4 cells."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer().train_new_from_iterator(
        [["a red bag above a green boot on fur", "a blue dress"]], 600, show_progress=False
    )
    tokenizer.model_max_length = num_tokens
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=num_tokens,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIZE_PX,
            patch_size=8,
            projection_dim=8,
        )
    )
    image_vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    annotation_vae = AnnotationVAE(AnnotationVAEConfig.for_labels(GARMENTS, (8, 8, 8), 8, 4))
    return Encoders(GARMENTS, TextEncoder(tokenizer, text), vision, image_vae, annotation_vae, "").eval()


def save_tiny_bundle(folder: Path, num_tokens: int = NUM_TOKENS) -> Bundle:
    """Writes the bundle and reads it again. Prompts of built-in pairs have up to 56 tokens."""
    net = JoDiffusion(replace(NET, num_text_tokens=num_tokens))
    encoders = tiny_encoders(num_tokens)
    for parameter in net.parameters():  # fresh weights are so small that prompts would hardly show in eight bits
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    Bundle(encoders, net, Diffusion(), SIZE_PX, guidance=2.0, digest="").save(folder)
    return Bundle.load(folder)


def save_pairs(
    folder: Path,
    num_pairs: int,
    split: str = "train",
    size_px: int = 32,
    num_shards: int = 2,
    num_labelled: int | None = None,
) -> Path:
    """Writes built-in pairs as an ingest run would; those behind the first `num_labelled` without masks."""
    scenes = BuiltinScenes(split, 0, size_px)
    made = [scenes(index) for index in range(num_pairs)]
    counted = [np.unique(scene.mask, return_counts=True) for scene in made]
    bare = num_pairs - (num_pairs if num_labelled is None else num_labelled)
    masks = [encode_mask(scene.mask) for scene in made]
    table = pa.table(
        {
            "pair_id": [real_pair_id(split, str(index)) for index in range(num_pairs)],
            "prompt": [scene.prompt for scene in made],
            "seed": list(range(num_pairs)),
            "image": [encode_image(scene.image) for scene in made],
            "mask": masks[: num_pairs - bare] + [b""] * bare,
            "height": [size_px] * num_pairs,
            "width": [size_px] * num_pairs,
            "class_ids": [ids.tolist() for ids, _ in counted][: num_pairs - bare] + [[]] * bare,
            "class_pixels": [pixels.tolist() for _, pixels in counted][: num_pairs - bare] + [[]] * bare,
            "origin": ["real"] * num_pairs,
            "dataset": ["tiny"] * num_pairs,
            "split": [split] * num_pairs,
            "key": [str(index) for index in range(num_pairs)],
        }
    )
    rows = conform(table, PAIR)
    for part in np.array_split(np.arange(num_pairs), num_shards):
        write_table(rows.take(part), f"{folder}/shards")
    GARMENTS.save(folder / "label_space.json")
    return folder
