"""Bundles with random weights, to measure with: of the paper's size, and of one that a CPU can run."""

from __future__ import annotations

from typing import Literal

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.diffusion import Diffusion
from models.frozen import TextEncoder
from models.jodiffusion import JoDiffusion, JoDiffusionConfig
from models.labels import LabelSpace
from models.weights import Bundle, Encoders

Size = Literal["full", "mid"]
PROMPTS = ("a dog on grass", "two boats under a bridge", "a cat on a sofa", "people wait for a bus")


def random_bundle(size: Size) -> Bundle:
    """For VOC: "full" is the published size (512 px), "mid" has a network of 18 million parameters (256 px)."""
    torch.manual_seed(0)
    full = size == "full"
    net = JoDiffusionConfig() if full else JoDiffusionConfig(latent_size=32, num_heads=6, num_layers=8, text_width=256)
    tokenizer = CLIPTokenizer().train_new_from_iterator([list(PROMPTS)], 600, show_progress=False)
    tokenizer.model_max_length = net.num_text_tokens
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=net.text_width,
            intermediate_size=4 * net.text_width,
            num_hidden_layers=12 if full else 4,
            num_attention_heads=net.text_width // 64,
            max_position_embeddings=net.num_text_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=net.clip_image_width))
    widths = (128, 256, 512, 512) if full else (32, 64, 128, 128)
    image_vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=2,
    )
    labels = LabelSpace.named("voc")
    annotation_vae = AnnotationVAE(
        AnnotationVAEConfig() if full else AnnotationVAEConfig.for_labels(labels, widths, 128, 4)
    )
    encoders = Encoders(labels, TextEncoder(tokenizer, text), vision, image_vae, annotation_vae, "").eval()
    joint = JoDiffusion(net).eval()
    return Bundle(encoders, joint, Diffusion(), net.latent_size * 8, guidance=8.0, digest="")
