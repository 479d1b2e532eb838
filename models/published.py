"""Reads published checkpoints: UniDiffuser's folder, and what the reference implementation of JoDiffusion saves.

Sizes come from shapes where they can; a config, where there is one, tells the rest.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer, CLIPTextModel, CLIPVisionModelWithProjection

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.diffusion import NUM_TIMES, Diffusion
from models.frozen import TextEncoder
from models.jodiffusion import JoDiffusion, JoDiffusionConfig
from models.labels import LabelSpace
from models.published_files import Tensors, holder, read_config, read_tensors, subfolder
from models.weights import Bundle, Encoders, WeightsError, assigned, load_net, pretrained

Part = TypeVar("Part", bound=nn.Module)

UNUSED = "transformer.pos_embed.proj."
"""A patch embedding that UniDiffuser's class makes and never uses."""
SIZED_BY = {
    "pos_embed": 3, "text_in.weight": 2, "pre_text.weight": 2, "post_text.weight": 2, "clip_img_in.weight": 2,
    "vae_img_in.proj.weight": 4, "vae_label_in.proj.weight": 4,
}  # fmt: skip
"""Tensors that tell sizes, and how many axes each has."""
HALVES = r"transformer\.transformer_(?:in|out)_blocks\.(\d+)\."
ANNOTATION_SCALE = 0.2
GUIDANCE = 8.0  # the paper's


def import_bundle(base: Path, joint: Path | None, annotation_vae: Path, labels: LabelSpace) -> Bundle:
    """A bundle of published parts, in evaluation mode.

    Args:
        base: folder in the layout of `thu-ml/unidiffuser-v1`, or a pipeline that the reference saved: text encoder,
            tokenizer, image encoder, image VAE and `unet`.
        joint: a fine-tuned joint checkpoint. None: the network of `base`, UniDiffuser's being widened to masks.
        annotation_vae: an annotation VAE as the reference saves it.
        labels: what its class ids mean.

    Raises:
        WeightsError: something is missing, damaged or does not fit; says what and where.
    """
    net = read_joint(joint) if joint else read_base_joint(base)
    vae = read_annotation_vae(annotation_vae)
    encoders = Encoders(
        labels=labels,
        text=TextEncoder(
            read_tokenizer(subfolder(base, "clip_tokenizer", "tokenizer")),
            read_library_part(CLIPTextModel, subfolder(base, "text_encoder")),
        ),
        clip_image=read_library_part(CLIPVisionModelWithProjection, subfolder(base, "image_encoder")),
        image_vae=read_library_part(AutoencoderKL, subfolder(base, "vae", "image_vae")),
        annotation_vae=vae,
        digest="",
    ).eval()
    image_size_px = net.config.latent_size * vae.config.downsampling
    bundle = Bundle(encoders, net.eval(), read_diffusion(base / "scheduler"), image_size_px, GUIDANCE, digest="")
    bundle.check(str(base))
    return bundle


def read_diffusion(folder: Path) -> Diffusion:
    """The noise process of a `scheduler` folder; the published one where there is none.

    Raises:
        WeightsError: another process, which these networks would have to be sampled with.
    """
    path = folder / "scheduler_config.json"
    found = read_config(path.parent, path.name)
    ours = {"num_train_timesteps": NUM_TIMES, "beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
    if wrong := [
        f"{key} is {found[key]!r}, not {value!r}" for key, value in ours.items() if found.get(key, value) != value
    ]:
        raise WeightsError(f"{path}: a noise process that is not supported: {'; '.join(wrong)}")
    default = Diffusion()
    return Diffusion(
        beta_start=_number(found, "beta_start", default.beta_start, path),
        beta_end=_number(found, "beta_end", default.beta_end, path),
    )


def read_joint(folder: Path) -> JoDiffusion:
    """The joint network of a JoDiffusion checkpoint: flat, or in `unet/`."""
    folder = holder(folder, "unet")
    return build_joint(read_tensors(folder), read_config(folder), where=str(folder))


def read_base_joint(base: Path) -> JoDiffusion:
    """The joint network of a whole pipeline: JoDiffusion's own, or one made of UniDiffuser's (JoDiffusion, section
    "Implementation details"): mask patches start as image patches, text goes through the captioner's prefix layers."""
    folder = subfolder(base, "unet")
    tensors, config = read_tensors(folder), read_config(folder)
    if "vae_label_in.proj.weight" in tensors:
        return build_joint(tensors, config, where=str(folder))
    prefix = read_tensors(subfolder(base, "text_decoder"))
    needed = ("pos_embed", "vae_img_in.proj.weight", "vae_img_in.proj.bias", "vae_img_out.weight", "vae_img_out.bias")
    prefix_needed = [f"{way}_prefix.{kind}" for way in ("encode", "decode") for kind in ("weight", "bias")]
    missing = [name for name in needed if name not in tensors] + [name for name in prefix_needed if name not in prefix]
    if missing:
        raise WeightsError(f"{base}: not UniDiffuser's weights, missing {', '.join(missing)}")
    num_patches = len_patches(config, where=str(folder))
    for kind in ("weight", "bias"):
        tensors[f"pre_text.{kind}"] = prefix[f"encode_prefix.{kind}"]
        tensors[f"post_text.{kind}"] = prefix[f"decode_prefix.{kind}"]
        tensors[f"vae_label_in.proj.{kind}"] = tensors[f"vae_img_in.proj.{kind}"].clone()
        tensors[f"label_out.{kind}"] = tensors[f"vae_img_out.{kind}"].clone()
    positions = tensors["pos_embed"]
    tensors["pos_embed"] = torch.cat([positions, positions[:, -num_patches:]], dim=1)
    return build_joint(tensors, config, where=str(base))


def build_joint(tensors: Tensors, config: dict[str, Any], where: str) -> JoDiffusion:
    """The network that fits the tensors; a config gives what shapes cannot tell, the published values stand in for it.

    Raises:
        WeightsError: lists missing, surplus and misshapen tensors.
    """
    tensors = {name: value for name, value in tensors.items() if not name.startswith(UNUSED)}
    if missing := [name for name, axes in SIZED_BY.items() if name not in tensors or tensors[name].ndim != axes]:
        raise WeightsError(
            f"{where}: not the weights of a JoDiffusion network, missing or misshapen {', '.join(missing)}; found "
            f"{', '.join(sorted(tensors)[:4])} ..."
        )
    blocks = [int(match[1]) for name in tensors if (match := re.match(HALVES, name))]
    width, text_bottleneck = tensors["text_in.weight"].shape
    text_width, predicted_width = tensors["pre_text.weight"].shape[1], tensors["post_text.weight"].shape[0]
    head_width = int(_number(config, "attention_head_dim", 64, Path(where)))
    patch_size = tensors["vae_img_in.proj.weight"].shape[-1]
    num_text_tokens = int(_number(config, "num_text_tokens", 77, Path(where)))
    num_patches = max(0, tensors["pos_embed"].shape[1] - 3 - num_text_tokens) // 2
    try:
        found = JoDiffusionConfig(
            latent_size=math.isqrt(num_patches) * patch_size,
            image_channels=tensors["vae_img_in.proj.weight"].shape[1],
            mask_channels=tensors["vae_label_in.proj.weight"].shape[1],
            patch_size=patch_size,
            num_heads=int(_number(config, "num_attention_heads", width // head_width, Path(where))),
            head_width=head_width,
            num_layers=2 * (max(blocks, default=-1) + 1),
            num_text_tokens=num_text_tokens,
            text_width=text_width,
            text_bottleneck=text_bottleneck,
            clip_image_width=tensors["clip_img_in.weight"].shape[1],
            text_prediction_width=0 if predicted_width == text_width else predicted_width,
            pre_norm=bool(config.get("pre_layer_norm", False)),
        )
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from error
    return assigned(lambda: JoDiffusion(found), tensors, where)


def read_annotation_vae(folder: Path) -> AnnotationVAE:
    """The reference's annotation VAE: flat, or in `label_vae/` or `vae/`, which beside the former is that of images;
    sizes come from its tensors. Or one of our own training, with its statistics."""
    folder = holder(folder, "label_vae", "vae")
    config = read_config(folder)
    if "latent_std" in config:
        return load_net(AnnotationVAE, AnnotationVAEConfig, folder).eval()
    tensors = read_tensors(folder)
    convolutions, outputs = (_convolutions(tensors, half) for half in ("encoder", "decoder"))
    if not convolutions or not outputs:
        raise WeightsError(
            f"{folder}: not a whole annotation VAE; found {', '.join(sorted(tensors)[:4])} .... The variant that is an "
            "AutoencoderKL is not supported: the released checkpoints do not use it"
        )
    # Three and two for every stage in the encoder; two and a transposed one for every stage in the decoder.
    if len(convolutions) < 5 or len(convolutions) % 2 == 0 or len(outputs) != 2 + (len(convolutions) - 3) // 2:
        expected = AnnotationVAEConfig(num_bits=tensors[convolutions[0]].shape[1])
        return assigned(lambda: AnnotationVAE(expected), tensors, f"{folder} (not a whole annotation VAE)")
    # First and last two layers stand alone; between them every stage is one widening and one striding convolution.
    widths = (tensors[convolutions[0]].shape[0], *(tensors[name].shape[0] for name in convolutions[1:-2:2]))
    factor = _number(config, "scaling_factor", ANNOTATION_SCALE, folder)
    first, stage = (tensors[name].shape for name in outputs[:2])  # (out, in, ...), and transposed: (in, out, ...)
    width = stage[1] if len(outputs) > 2 else first[0]
    found = AnnotationVAEConfig(
        num_bits=tensors[convolutions[0]].shape[1],
        num_outputs=tensors[outputs[-1]].shape[0],
        encoder_widths=widths,
        decoder_width=width,
        decoder_first_width=None if first[0] == width else first[0],
        latent_channels=first[1],
        norm_groups=int(_number(config, "norm_num_groups", 32, folder)),
        latent_std=(1 / factor,),
    )
    return assigned(lambda: AnnotationVAE(found), tensors, str(folder)).eval()


def _convolutions(tensors: Tensors, half: str) -> list[str]:
    """Names of the weights of convolutions in `encoder` or `decoder`, in order."""
    numbered = [(int(name.split(".")[1]), name) for name in tensors if re.fullmatch(rf"{half}\.\d+\.weight", name)]
    return [name for _, name in sorted(numbered) if tensors[name].ndim == 4]


def _number(config: dict[str, Any], key: str, default: float, where: Path) -> float:
    """A number of a config, or `default` where the config does not say."""
    value = config.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
        raise WeightsError(f"{where}: the config's {key} must be a number above 0, found {value!r}")
    return default if value is None else value


def read_library_part(kind: type[Part], folder: Path) -> Part:
    """A part that diffusers or transformers knows, from any form of its file: what lies there is first rewritten as
    safetensors, so that neither library ever meets a pickle."""
    tensors = read_tensors(folder)
    if not (folder / "config.json").exists():
        raise WeightsError(f"{folder}: config.json is missing; copy it beside the weights")
    stem = "diffusion_pytorch_model" if kind is AutoencoderKL else "model"
    with TemporaryDirectory() as temporary:
        copy = Path(temporary)
        try:
            (copy / "config.json").write_bytes((folder / "config.json").read_bytes())
            save_file(tensors, copy / f"{stem}.safetensors", metadata={"format": "pt"})
            return pretrained(kind, copy)
        except (WeightsError, OSError, SafetensorError) as error:
            raise WeightsError(str(error).replace(str(copy), str(folder))) from error


def read_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer."""
    names = {path.name for path in folder.iterdir()}
    if "tokenizer.json" not in names and not names >= {"vocab.json", "merges.txt"}:
        # The library would begin with an empty vocabulary instead, and every prompt would read alike.
        raise WeightsError(f"{folder}: no tokenizer.json, nor vocab.json with merges.txt; copy them too")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder}: cannot read the tokenizer ({error}); copy the folder again") from error


def len_patches(config: dict[str, Any], where: str) -> int:
    """Patches of one latent, which UniDiffuser's table of positions does not tell apart from text tokens."""
    size, patch = config.get("sample_size"), config.get("patch_size")
    if not isinstance(size, int) or not isinstance(patch, int) or patch < 1:
        raise WeightsError(
            f"{where}: config.json must give whole numbers sample_size and patch_size, found {size!r} and {patch!r}; "
            "copy UniDiffuser's config beside its weights"
        )
    return (size // patch) ** 2
