"""Files of checkpoints, in every form in which people have them: flat or in a sub-folder, safetensors or `.bin` (never
unpickled: `weights_only=True`), sharded, half precision, wrapped by DistributedDataParallel or torch.compile; or on the
Hugging Face hub."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.weights import WeightsError

Tensors = dict[str, Tensor]

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
FILES = ("{}.safetensors", "{}.bin", "{}.fp16.safetensors", "{}.fp16.bin")
INDEXES = (
    "{}.safetensors.index.json", "{}.bin.index.json", "{}.safetensors.index.fp16.json", "{}.bin.index.fp16.json",
)  # fmt: skip
"""In order of preference: full precision before half, safetensors before `.bin`."""
WRAPPERS = ("module.", "_orig_mod.")


def read_tensors(folder: Path) -> Tensors:
    """All tensors of a checkpoint folder, float32, without wrappers' prefixes.

    Raises:
        WeightsError: no file, a shard missing, or a file that is damaged or holds more than tensors.
    """
    parts = [_read_file(file) for file in files_of(folder)]
    return _plain({name: value for part in parts for name, value in part.items()})


def files_of(folder: Path) -> list[Path]:
    """The files that hold the tensors of a checkpoint folder, one, or the shards of an index.

    Raises:
        WeightsError: there is none, or a shard is missing.
    """
    for whole, sharded in zip(FILES, INDEXES, strict=True):
        for stem in STEMS:
            if (index := folder / sharded.format(stem)).exists():
                return _shards(index)
            if (file := folder / whole.format(stem)).exists():
                return [file]
    raise WeightsError(
        f"{folder}: no weights here; expected {' or '.join(STEMS)}, as .safetensors or .bin, whole or with an index"
    )


def read_one(file: Path) -> Tensors:
    """All tensors of one file, float32, without wrappers' prefixes.

    Raises:
        WeightsError: damaged, or it holds more than tensors.
    """
    return _plain(_read_file(file))


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: not an index of weights ({error!r}); copy it again") from error
    if missing := [name for name in names if not (index.parent / name).exists()]:
        raise WeightsError(f"{index} names files that are missing: {', '.join(missing)}; copy them too")
    return [index.parent / name for name in names]


def _read_file(file: Path) -> Tensors:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    # The last one is of names in an old kind of checkpoint.
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError, UnicodeDecodeError) as error:
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
    """Without wrappers' prefixes, in float32, each tensor in memory of its own: the reference ties patch layers."""
    plain: Tensors = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        while wrapper := next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), ""):
            name = name.removeprefix(wrapper)
        value = value.float().contiguous() if value.is_floating_point() else value
        memory = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return plain


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A folder's config, or nothing where it is missing: tensors tell most of it."""
    path = folder / name
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error}); copy it again, or remove it if shapes tell enough") from error
    return found if isinstance(found, dict) else {}


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


@dataclass(frozen=True)
class Published:
    """A folder of weights, and what a card calls it: the name on the hub with its commit, or the folder's bare name."""

    folder: Path
    name: str


def locate(source: str, without: Sequence[str] = ()) -> Published:
    """A path, or a name on the Hugging Face hub, `owner/name[@revision][/folder]`, fetched once.

    Args:
        source: what the user gave.
        without: sub-folders that need not be fetched.

    Raises:
        WeightsError: neither here nor on the hub, or the hub cannot be asked.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return Published(path, path.resolve().name)
    owner, _, rest = source.strip("/").partition("/")
    name, _, folder = rest.partition("/")
    name, _, revision = name.partition("@")
    if path.exists() or source.startswith((".", "/", "~")) or not owner or not name:
        raise WeightsError(f"{source}: no such folder; check the path")
    repository = f"{owner}/{name}"
    try:
        snapshot = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=[f"{folder}/*" if folder else "*"],
            ignore_patterns=["*.ckpt", "*.pth", "*.msgpack", "*.h5", "*.onnx*", "*.png", "*.jpg", "*optimizer*"]
            + [f"{name}/*" for name in without],
        )
    except Exception as error:  # of its HTTP library too, which changes with its releases
        raise WeightsError(
            f"{source}: no folder of this name here, and the Hugging Face hub did not give it "
            f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}). Where there is no network, fetch "
            f"it elsewhere with `hf download {repository}` and give the folder's path"
        ) from error
    found = Path(snapshot, folder)
    if not found.is_dir():
        raise WeightsError(
            f"{repository} on the Hugging Face hub has no folder {folder!r}; look at its page for its names"
        )
    commit = Path(snapshot).name  # the hub's cache names a snapshot by it
    return Published(found, f"{repository}@{commit}{folder and '/' + folder}")
