"""Reads published checkpoints: UniDiffuser's folder, and what the reference implementation of JoDiffusion saves.

Legend: T text tokens, P patches of one latent. Every form in which people have these files is read: flat or in a
sub-folder, safetensors or `.bin` (never unpickled: `weights_only=True`), sharded, half precision, wrapped by
DistributedDataParallel or torch.compile, with a config or without.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, CLIPVisionModelWithProjection

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.diffusion import Diffusion
from models.frozen import TextEncoder
from models.jodiffusion import JoDiffusion, JoDiffusionConfig
from models.labels import LabelSpace
from models.weights import SAFELY, Bundle, Encoders, WeightsError, load_tensors, pretrained

Tensors = dict[str, Tensor]
Part = TypeVar("Part", bound=nn.Module)
Net = TypeVar("Net", bound=nn.Module)

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
SUFFIXES = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
WRAPPERS = ("module.", "_orig_mod.")
UNUSED = "transformer.pos_embed.proj."
"""A patch embedding that UniDiffuser's class makes and never uses."""
IN_BLOCKS = "transformer.transformer_in_blocks."
ANNOTATION_SCALE = 0.2


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
    if (bits := vae.config.num_bits) != labels.num_bits or vae.config.num_outputs != labels.num_classes + 1:
        raise WeightsError(
            f"{annotation_vae} codes classes in {bits} bits and gives {vae.config.num_outputs} logits; label space "
            f"{labels.name!r} has {labels.num_bits} bits and {labels.num_classes + 1} classes with background. Name "
            "the label space that it was trained for"
        )
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
    bundle = Bundle(encoders, net.eval(), Diffusion(), image_size_px, "")
    bundle.check(str(base))
    return bundle


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
    try:
        width, text_width = tensors["text_in.weight"].shape[0], tensors["pre_text.weight"].shape[1]
        head_width = int(config.get("attention_head_dim") or 64)
        channels, mask_channels = (tensors[f"vae_{kind}_in.proj.weight"].shape[1] for kind in ("img", "label"))
        patch_size = tensors["vae_img_in.proj.weight"].shape[-1]
        num_text_tokens = int(config.get("num_text_tokens") or 77)
        num_patches = (tensors["pos_embed"].shape[1] - 3 - num_text_tokens) // 2
        found = JoDiffusionConfig(
            latent_size=math.isqrt(num_patches) * patch_size,
            image_channels=channels,
            mask_channels=mask_channels,
            patch_size=patch_size,
            num_heads=int(config.get("num_attention_heads") or width // head_width),
            head_width=head_width,
            num_layers=2 * len({name.split(".")[2] for name in tensors if name.startswith(IN_BLOCKS)}),
            num_text_tokens=num_text_tokens,
            text_width=text_width,
            text_bottleneck=tensors["text_in.weight"].shape[1],
            clip_image_width=tensors["clip_img_in.weight"].shape[1],
            pre_norm=bool(config.get("pre_layer_norm", False)),
        )
        if (predicted := tensors["post_text.weight"].shape[0]) != text_width:
            found = replace(found, text_prediction_width=predicted)
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"{where}: not the weights of a JoDiffusion network, tensor {error} is missing; "
            f"there are {len(tensors)}: {', '.join(sorted(tensors)[:8])} ..."
        ) from error
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from error
    return assigned(lambda: JoDiffusion(found), tensors, where)


def read_annotation_vae(folder: Path) -> AnnotationVAE:
    """The reference's annotation VAE: flat, or in `vae/` or `label_vae/`; sizes come from its tensors."""
    folder = holder(folder, "vae", "label_vae")
    tensors, config = read_tensors(folder), read_config(folder)
    convolutions = [name for name in tensors if name.startswith("encoder.") and tensors[name].ndim == 4]
    convolutions.sort(key=lambda name: int(name.split(".")[1]))
    outputs = [name for name in tensors if name.startswith("decoder.") and name.endswith(".weight")]
    outputs = sorted((name for name in outputs if tensors[name].ndim == 4), key=lambda name: int(name.split(".")[1]))
    if len(convolutions) < 5 or len(outputs) < 3:
        raise WeightsError(
            f"{folder}: not an annotation VAE; found {', '.join(sorted(tensors)[:8])} .... The variant that is a "
            "diffusers AutoencoderKL is not supported: the released checkpoints do not use it"
        )
    # First and last two layers stand alone; between them every stage is one widening and one striding convolution.
    widths = (tensors[convolutions[0]].shape[0], *(tensors[name].shape[0] for name in convolutions[1:-2:2]))
    factor = float(config.get("scaling_factor") or ANNOTATION_SCALE)
    found = AnnotationVAEConfig(
        num_bits=tensors[convolutions[0]].shape[1],
        num_outputs=tensors[outputs[-1]].shape[0],
        encoder_widths=widths,
        decoder_width=tensors[outputs[0]].shape[0],
        latent_channels=tensors[outputs[0]].shape[1],
        norm_groups=int(config.get("norm_num_groups") or 32),
        latent_std=(1 / factor,),
    )
    return assigned(lambda: AnnotationVAE(found), tensors, str(folder)).eval()


def read_library_part(kind: type[Part], folder: Path) -> Part:
    """A part that diffusers or transformers knows, from any form of its file: what lies there is first rewritten as
    safetensors, so that neither library ever meets a pickle."""
    tensors = read_tensors(folder)
    if not (folder / "config.json").exists():
        raise WeightsError(f"{folder}: config.json is missing; copy it beside the weights")
    stem = "diffusion_pytorch_model" if kind is AutoencoderKL else "model"
    with TemporaryDirectory() as temporary:
        copy = Path(temporary)
        (copy / "config.json").write_bytes((folder / "config.json").read_bytes())
        save_file(tensors, copy / f"{stem}.safetensors", metadata={"format": "pt"})
        try:
            return pretrained(kind, copy)
        except WeightsError as error:
            raise WeightsError(str(error).replace(str(copy), str(folder))) from error


def read_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=SAFELY["local_files_only"])
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder}: cannot read the tokenizer ({error}); copy the folder again") from error


def read_tensors(folder: Path) -> Tensors:
    """All tensors of a checkpoint folder, float32, without wrappers' prefixes.

    Raises:
        WeightsError: no file, a shard missing, or a file that is damaged or holds more than tensors.
    """
    for suffix in SUFFIXES:
        for stem in STEMS:
            index = folder / f"{stem}{suffix}.index.json"
            if index.exists():
                names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
                if missing := [name for name in names if not (folder / name).exists()]:
                    raise WeightsError(f"{index} names files that are missing: {', '.join(missing)}; copy them too")
                parts = [_read_file(folder / name) for name in names]
                return _plain({name: value for part in parts for name, value in part.items()})
            if (file := folder / f"{stem}{suffix}").exists():
                return _plain(_read_file(file))
    stems, suffixes = " or ".join(STEMS), ", ".join(SUFFIXES)
    raise WeightsError(f"{folder}: no weights here; expected {stems}, as {suffixes}, whole or with an index")


def _read_file(file: Path) -> Tensors:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{file}: damaged, or holds more than tensors, which is never unpickled ({type(error).__name__}); "
            "copy it again, or save it as safetensors where it was made"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"{file}: holds no dictionary of tensors; is it a training state rather than weights?")
    return found


def _plain(tensors: Tensors) -> Tensors:
    plain = {}
    for name, value in tensors.items():
        stripped = True
        while stripped:
            stripped = any(name.startswith(wrapper) for wrapper in WRAPPERS)
            for wrapper in WRAPPERS:
                name = name.removeprefix(wrapper)
        plain[name] = value.float().contiguous() if value.is_floating_point() else value
    return plain


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json`, or nothing where it is missing: tensors tell most of it."""
    path = folder / "config.json"
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error}); copy it again, or remove it if shapes tell enough") from error
    return found if isinstance(found, dict) else {}


def len_patches(config: dict[str, Any], where: str) -> int:
    """Patches of one latent, which UniDiffuser's table of positions does not tell apart from text tokens."""
    try:
        return (int(config["sample_size"]) // int(config["patch_size"])) ** 2
    except KeyError as error:
        raise WeightsError(
            f"{where}: config.json lacks {error}; copy UniDiffuser's config beside its weights"
        ) from error


def holder(folder: Path, *names: str) -> Path:
    """`folder`, or the one of its sub-folders that holds the checkpoint, as in a trainer's `checkpoint-N`."""
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder; check the path")
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def subfolder(folder: Path, *names: str) -> Path:
    """The first of the sub-folders `names` that is there."""
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder; check the path")
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise WeightsError(
        f"{folder}: no sub-folder {' or '.join(names)}; expected the layout of thu-ml/unidiffuser-v1, found "
        f"{', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing'}"
    )


def assigned(build: Callable[[], Net], tensors: Tensors, where: str) -> Net:
    """A network that takes `tensors` as its own, without a second copy in memory."""
    with torch.device("meta"):
        net = build()
    load_tensors(net, tensors, where)
    return net


def locate(source: str) -> Path:
    """A folder of weights: a path, or a name on the Hugging Face hub, `owner/name[@revision][/folder]`, fetched once.

    Raises:
        WeightsError: neither here nor on the hub, or the hub cannot be asked.
    """
    if Path(source).is_dir():
        return Path(source)
    owner, _, rest = source.partition("/")
    name, _, folder = rest.partition("/")
    name, _, revision = name.partition("@")
    if source.startswith((".", "/", "~")) or not owner or not name:
        raise WeightsError(f"{source}: no such folder; check the path")
    try:
        snapshot = snapshot_download(
            f"{owner}/{name}",
            revision=revision or None,
            allow_patterns=[f"{folder}/*" if folder else "*"],
            ignore_patterns=["*.ckpt", "*.pth", "*.msgpack", "*.h5", "*.onnx*", "*.png", "*.jpg"],
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise WeightsError(
            f"{source}: no folder of this name here, and the Hugging Face hub did not give it "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Where there is no network, fetch it elsewhere "
            f"with `hf download {owner}/{name}` and give the folder's path"
        ) from error
    return subfolder(Path(snapshot), folder) if folder else Path(snapshot)
