"""A clean pair of latents, published checkpoints in every form, and a small captioner with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from models.jodiffusion import JoDiffusion, Joint
from tests.models.golden import FOLDER

SIZE_PX = 28
NETS: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**NETS, "image_size": SIZE_PX, "patch_size": 14}
TINY = FOLDER / "tiny_checkpoints"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def clean_pair(num_pairs: int = 4) -> tuple[Joint, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Joint(normal(num_pairs, 4, 8, 8), normal(num_pairs, 1, 16), normal(num_pairs, 4, 8, 8)), normal(
        num_pairs, 5, 12
    )


def assert_gives(net: JoDiffusion, expected: dict[str, torch.Tensor], name: str) -> None:
    noisy = Joint(expected["in.image_latent"], expected["in.clip_image"], expected["in.mask_latent"])
    with torch.inference_mode():
        joint, text = net.eval()(noisy, expected["in.text"], expected["in.t_image"], expected["in.t_text"])
    found = {"image_latent": joint.image, "clip_image": joint.clip_image, "mask_latent": joint.mask, "text": text}
    for part, value in found.items():
        torch.testing.assert_close(value, expected[f"{name}.{part}"], atol=1e-5, rtol=0)


def save_tiny_captioner(folder: Path, kind: str = "blip-2") -> Path:
    """A captioner with random weights whose captions differ from picture to picture."""
    torch.manual_seed(3)
    image_processor = BlipImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX})
    tokenizer = tiny_tokenizer(kind)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    net: Any
    if kind == "blip-2":
        processor = Blip2Processor(image_processor, tokenizer, num_query_tokens=4)  # adds its token to the tokenizer
        opt = {"model_type": "opt", "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        size = {"vocab_size": len(tokenizer), "word_embed_proj_dim": 16, "max_position_embeddings": 64}
        net = Blip2ForConditionalGeneration(
            Blip2Config(
                vision_config=VISION,
                qformer_config={**NETS, "vocab_size": 8, "encoder_hidden_size": 16},
                text_config={**opt, **size, **ids},
                num_query_tokens=4,
                image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            )
        )
        processor.save_pretrained(folder)
    else:
        text = {**NETS, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
        if kind == "blip":
            text |= {"encoder_hidden_size": 16, "sep_token_id": ids["eos_token_id"]}
            net = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION))
        elif kind == "git":
            net = GitForCausalLM(GitConfig(vision_config=VISION, **text))
        else:
            gpt2 = GPT2Config(
                n_embd=16, n_layer=1, n_head=2, vocab_size=len(tokenizer), add_cross_attention=True, is_decoder=True
            )
            config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), gpt2)
            net = VisionEncoderDecoderModel(config)
            net.generation_config.update(**ids, decoder_start_token_id=tokenizer.bos_token_id)
        image_processor.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for name, parameter in net.named_parameters():  # fresh weights are so small that all pictures would look alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02 if "vision" in name else 0.6)
    net.save_pretrained(folder)
    return folder


def tiny_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    text = [["a photo of a red bag above a green boot on fur and two blue dresses"]]
    if kind in ("blip", "git"):
        bert = BertTokenizer().train_new_from_iterator(text, 60, show_progress=False)
        bert.add_special_tokens({"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"})
        return bert
    gpt2 = GPT2Tokenizer().train_new_from_iterator(text, 280, show_progress=False)
    gpt2.add_special_tokens({"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"})
    return gpt2
