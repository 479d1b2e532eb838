"""The bundle: the folder of weights that sampling needs, and its digest. Safetensors only; nothing is unpickled.

    bundle.json  label_space.json  text_encoder/ tokenizer/ image_encoder/ image_vae/ annotation_vae/ joint/

Without `joint/` the folder holds just the encoders, which is what latents are made with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.annotation_vae import AnnotationVAE, AnnotationVAEConfig
from models.diffusion import Diffusion
from models.frozen import TextEncoder
from models.jodiffusion import JoDiffusion, JoDiffusionConfig
from models.labels import LabelSpace
from models.reverse import Student
from models.step_cache import Schedule, ScheduleError, read_schedule

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPVisionModelWithProjection

WEIGHTS = "model.safetensors"
ENCODERS = ("label_space.json", "text_encoder", "tokenizer", "image_encoder", "image_vae", "annotation_vae")
SAFELY: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
"""No download and no pickle, whatever lies in a folder."""
JOINT = ("bundle.json", "joint")


class WeightsError(ValueError):
    """Weights that are missing, damaged or of another shape."""


class Configured(Protocol):
    """A network that carries the dataclass it was built from."""

    config: Any


Net = TypeVar("Net", bound=nn.Module)
Part = TypeVar("Part", bound=nn.Module)
Settings = TypeVar("Settings")


@dataclass
class Encoders:
    """The frozen parts, and what the class ids mean."""

    labels: LabelSpace
    text: TextEncoder
    clip_image: CLIPVisionModelWithProjection
    image_vae: AutoencoderKL
    annotation_vae: AnnotationVAE
    digest: str

    @classmethod
    def load(cls, folder: str | Path) -> Encoders:
        """Reads an encoder folder or a bundle, in evaluation mode on the CPU, float32.

        Raises:
            WeightsError: something is missing or does not fit; says what and where.
        """
        # Not above: these two libraries are two thirds of a process's start, and most processes load no encoders.
        from diffusers import AutoencoderKL
        from transformers import AutoTokenizer, CLIPTextModel, CLIPVisionModelWithProjection

        folder = Path(folder)
        _require(folder, ENCODERS)
        try:
            return cls(
                labels=LabelSpace.load(folder / "label_space.json"),
                text=TextEncoder(
                    AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True, trust_remote_code=False),
                    pretrained(CLIPTextModel, folder / "text_encoder"),
                ),
                clip_image=pretrained(CLIPVisionModelWithProjection, folder / "image_encoder"),
                image_vae=pretrained(AutoencoderKL, folder / "image_vae"),
                annotation_vae=load_net(AnnotationVAE, AnnotationVAEConfig, folder / "annotation_vae"),
                digest=digest(folder, ENCODERS),
            ).eval()
        except (OSError, SafetensorError, RuntimeError, KeyError, json.JSONDecodeError) as error:
            raise WeightsError(
                f"{folder}: cannot read the encoders: {error}. Copy or make the folder again."
            ) from error

    def save(self, folder: str | Path) -> None:
        """Writes the parts under `folder`, fp32 safetensors and JSON."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.labels.save(folder / "label_space.json")
        self.text.tokenizer.save_pretrained(folder / "tokenizer")
        self.text.model.save_pretrained(folder / "text_encoder")
        self.clip_image.save_pretrained(folder / "image_encoder")
        self.image_vae.save_pretrained(folder / "image_vae")
        save_net(self.annotation_vae, folder / "annotation_vae")
        for part, name in (("image_vae", "config.json"), ("tokenizer", "tokenizer_config.json")):
            forget_origin(folder / part / name)

    def to(self, device: torch.device) -> Encoders:
        """Moves every net, in place."""
        for net in self._nets():
            net.to(device)
        return self

    def eval(self) -> Encoders:
        """Puts every net into evaluation mode, in place."""
        for net in self._nets():
            net.eval()
        return self

    def _nets(self) -> tuple[nn.Module, ...]:
        return self.text, self.clip_image, self.image_vae, self.annotation_vae


@dataclass
class Bundle:
    """Everything that makes a pair from a prompt."""

    encoders: Encoders
    net: JoDiffusion
    diffusion: Diffusion
    image_size_px: int
    guidance: float
    """Scale that sampling takes unless it is told another: what is best differs from network to network."""
    digest: str
    student: Student | None = None
    schedule: Schedule | None = None

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Reads a bundle, in evaluation mode on the CPU, float32.

        Raises:
            WeightsError: something is missing or does not fit; says what and where.
        """
        folder = Path(folder)
        _require(folder, JOINT)
        facts = read_facts(folder)
        encoders = Encoders.load(folder)
        net = load_net(JoDiffusion, JoDiffusionConfig, folder / "joint").eval()
        bundle = cls(encoders, net, **vars(facts), digest=digest(folder, ENCODERS + JOINT))
        bundle.check(str(folder))
        return bundle

    def check(self, where: str) -> None:
        """Raises WeightsError where the parts do not fit each other."""
        net, parts = self.net.config, self.encoders
        wanted_and_found = {
            "text tokens": (net.num_text_tokens, parts.text.num_tokens),
            "text width": (net.text_width, parts.text.width),
            "CLIP image width": (net.clip_image_width, parts.clip_image.config.projection_dim),
            "image latent channels": (net.image_channels, parts.image_vae.config.latent_channels),
            "mask latent channels": (net.mask_channels, parts.annotation_vae.config.latent_channels),
            "the mask's own time": (net.mask_time, self.diffusion.mask_time == "independent"),
            "classes with background": (parts.labels.num_classes + 1, parts.annotation_vae.config.num_outputs),
            "bits of a class's code": (parts.labels.num_bits, parts.annotation_vae.config.num_bits),
            "pixels a side of masks": (self.image_size_px, net.latent_size * parts.annotation_vae.config.downsampling),
            "pixels a side of images": (
                self.image_size_px,
                net.latent_size * 2 ** (len(parts.image_vae.config.block_out_channels) - 1),
            ),
        }
        wrong = [f"{name}: expected {a}, found {b}" for name, (a, b) in wanted_and_found.items() if a != b]
        if wrong:
            raise WeightsError(f"{where}: its parts do not fit: {'; '.join(wrong)}; take all parts from one bundle")

    def save(self, folder: str | Path) -> None:
        """Writes the whole bundle under `folder`."""
        folder = Path(folder)
        self.encoders.save(folder)
        save_net(self.net, folder / "joint")
        facts: dict[str, Any] = {"format": 1, "image_size_px": self.image_size_px, "guidance": self.guidance}
        facts["diffusion"] = asdict(self.diffusion)
        facts |= {"student": asdict(self.student)} if self.student else {}
        (folder / "bundle.json").write_text(json.dumps(facts, indent=1))


@dataclass(frozen=True)
class Facts:
    """What `bundle.json` says; the fields are `Bundle`'s."""

    diffusion: Diffusion
    image_size_px: int
    guidance: float
    student: Student | None
    schedule: Schedule | None


def read_facts(folder: str | Path) -> Facts:
    """The facts of a bundle, without its weights.

    Raises:
        WeightsError: no bundle, or its `bundle.json` is damaged.
    """
    _require(folder := Path(folder), JOINT)
    try:
        facts = json.loads((folder / "bundle.json").read_text())
        student = Student(**facts["student"]) if "student" in facts else None
        size_px, guidance, schedule = int(facts["image_size_px"]), float(facts["guidance"]), read_schedule(folder)
        return Facts(Diffusion(**facts["diffusion"]), size_px, guidance, student, schedule)
    except ScheduleError as error:
        raise WeightsError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder / 'bundle.json'}: not what a bundle holds ({error!r}); copy it again") from error


def save_net(net: nn.Module, folder: str | Path) -> None:
    """Writes `config.json` (the net's dataclass) and `model.safetensors` (float32)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = cast(Configured, net).config
    values = {key: value for key, value in asdict(config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values, indent=1))
    save_file({name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}, folder / WEIGHTS)


def load_config(config_type: type[Settings], folder: str | Path) -> Settings:
    """The sizes of a network that `save_net` wrote.

    Raises:
        WeightsError: missing file, or unknown key.
    """
    folder = Path(folder)
    _require(folder, ("config.json",))
    values = json.loads((folder / "config.json").read_text())
    known = {field.name for field in fields(cast(Any, config_type))}
    if unknown := sorted(set(values) - known):
        raise WeightsError(f"{folder / 'config.json'}: unknown keys {unknown}; known are {sorted(known)}")
    return config_type(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def load_net(net_type: type[Net], config_type: type[Any], folder: str | Path) -> Net:
    """Reads what `save_net` wrote.

    Raises:
        WeightsError: missing file, unknown config key, or tensors that are missing, surplus or of another shape.
    """
    folder = Path(folder)
    _require(folder, ("config.json", WEIGHTS))
    config = load_config(config_type, folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{folder / WEIGHTS}: damaged ({error}); copy or make it again") from error
    return assigned(lambda: net_type(config), tensors, str(folder / WEIGHTS))


def assigned(build: Callable[[], Net], tensors: dict[str, torch.Tensor], where: str) -> Net:
    """A network that takes `tensors` as its own: one copy of gigabytes in memory, not two.

    Raises:
        WeightsError: lists missing, surplus and misshapen tensors.
    """
    try:
        with torch.device("meta"):
            net = build()
    except ValueError as error:  # sizes that no network can have
        raise WeightsError(f"{where}: {error}") from error
    load_tensors(net, tensors, where)
    return net


def load_tensors(net: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Loads `tensors` into `net`, all or nothing.

    Raises:
        WeightsError: lists missing, surplus and misshapen tensors.
    """
    wanted = net.state_dict()
    problems = [f"missing {name}" for name in wanted.keys() - tensors.keys()]
    problems += [f"surplus {name}" for name in tensors.keys() - wanted.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, should be {tuple(wanted[name].shape)}"
        for name in wanted.keys() & tensors.keys()
        if tensors[name].shape != wanted[name].shape
    ]
    if problems:
        raise WeightsError(f"{where} does not fit the network:\n  " + "\n  ".join(sorted(problems)))
    net.load_state_dict(tensors, assign=any(value.is_meta for value in wanted.values()))


def pretrained(kind: type[Part], folder: Path) -> Part:
    """A part that diffusers or transformers reads, complete or not at all; both would draw what is missing at random.

    Raises:
        WeightsError: tensors that are missing or of another shape.
    """
    # Float32 whatever a config says: the bundle keeps what it was given, and precision is the sampler's choice.
    own: dict[str, Any] = (
        {"low_cpu_mem_usage": False, "torch_dtype": torch.float32}
        if kind.__module__.startswith("diffusers.")
        else {"dtype": torch.float32, "ignore_mismatched_sizes": True}
    )
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a line per part and process would drown the log of a run
    try:
        part, found = cast(Any, kind).from_pretrained(folder, output_loading_info=True, **own, **SAFELY)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder}: cannot read it ({error}); copy or make it again") from error
    wrong = [f"missing {name}" for name in found["missing_keys"]]
    wrong += [f"misshapen {' '.join(map(str, fact))}" for fact in found["mismatched_keys"]]
    wrong += [f"surplus {name}" for name in found["unexpected_keys"] if not name.endswith("position_ids")]
    if wrong:
        raise WeightsError(f"{folder} does not fit {kind.__name__}:\n  " + "\n  ".join(sorted(wrong)))
    return part


def digest(folder: str | Path, parts: tuple[str, ...]) -> str:
    """16 hex digits over names and bytes of all files of `parts` under `folder`.

    Raises:
        WeightsError: a part is missing.
    """
    _require(folder := Path(folder), parts)
    total = hashlib.blake2b(digest_size=8)
    for part in sorted(parts):
        path = folder / part
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(str(file.relative_to(folder)).encode())
                with file.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "blake2b").digest())
    return total.hexdigest()


def forget_origin(path: Path) -> None:
    """Drops where the libraries read a part from: the path of one machine, and a digest that would change with it."""
    values = json.loads(path.read_text())
    kept = {key: value for key, value in values.items() if key not in ("_name_or_path", "is_local", "local_files_only")}
    path.write_text(json.dumps(kept, indent=2))


def _require(folder: Path, parts: tuple[str, ...]) -> None:
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder of weights; check the path in the config")
    if missing := [part for part in parts if not (folder / part).exists()]:
        hint = f"its weights are in {folder}/weights" * (folder / "weights" / parts[0]).exists()
        raise WeightsError(f"{folder}: {', '.join(missing)} missing; {hint or 'is this the right folder?'}")
