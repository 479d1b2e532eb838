"""Weights of others that a segmenter begins with: a file, a folder or a name on the hub. Nothing is unpickled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from models.published_files import Tensors, files_of, locate, read_one, read_tensors
from models.weights import WeightsError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def read_pretrained(source: str) -> Tensors:
    """The tensors of a file, of a folder, or of a name on the hub, `owner/name[@revision][/folder]`; float32.

    Raises:
        WeightsError: nothing there, damaged, or more than tensors.
    """
    if file := _file(source):
        return read_one(file)
    return read_tensors(locate(source).folder)


def identity(source: str) -> str:
    """What tells the weights that `read_pretrained` finds from others at the same place: the commit of a name on the
    hub, else a digest of the files.

    Raises:
        WeightsError: nothing there.
    """
    if file := _file(source):
        return files_digest([file])
    folder = Path(source).expanduser()
    return files_digest(files_of(folder)) if folder.is_dir() else _on_the_hub(source)


def files_digest(files: Iterable[Path]) -> str:
    """16 hex digits over the bytes of files, in this order. A process reads a file again only where it has changed."""
    facts = [(file, file.stat()) for file in files]
    return _digest(tuple((str(file), one.st_size, one.st_mtime_ns) for file, one in facts))


@cache
def _digest(facts: tuple[tuple[str, int, int], ...]) -> str:
    total = blake2b(digest_size=8)
    for file, _, _ in facts:
        with open(file, "rb") as stream:
            total.update(file_digest(stream, "blake2b").digest())
    return total.hexdigest()


@cache
def _on_the_hub(source: str) -> str:
    return locate(source).name


def _file(source: str) -> Path | None:
    """The file that is meant; None for a folder or a name."""
    path = Path(source).expanduser()
    if path.suffix not in SUFFIXES or path.is_dir():
        return None
    if not path.is_file():
        raise WeightsError(f"{source}: no such file of weights; check the path")
    return path


def read_config(source: str) -> Any:
    """The sizes of a network of transformers, in a folder or by a name on the hub, as `read_pretrained` takes it.

    Raises:
        WeightsError: nothing there, or no network that transformers knows.
    """
    folder = locate(source).folder
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{source}: its config.json is of no network that transformers knows ({' '.join(str(error).split())[:200]})"
        ) from error


def filled(
    kind: type[Any],
    config: Any,
    tensors: Tensors,
    where: str,
    *,
    fresh: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> Any:
    """A network of transformers with others' weights, whose names it knows from all its releases.

    Args:
        kind: class of the network.
        config: its sizes.
        tensors: of the checkpoint.
        where: for messages.
        fresh: beginnings of names that may be missing or of another shape, and are drawn anew then.
        unused: beginnings of names that may be left over.

    Raises:
        WeightsError: lists what is missing, misshapen or left over besides.
    """
    try:
        with quiet():
            net, found = kind.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
    except (RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(f"{where} does not fit {kind.__name__}: {error}") from error
    wrong = [f"missing {name}" for name in found["missing_keys"] if not name.startswith(fresh)]
    wrong += [
        f"misshapen {' '.join(map(str, fact))}" for fact in found["mismatched_keys"] if not fact[0].startswith(fresh)
    ]
    wrong += [f"surplus {name}" for name in found["unexpected_keys"] if not name.startswith(unused)]
    if wrong:
        raise WeightsError(f"{where} does not fit {kind.__name__}:\n  " + "\n  ".join(sorted(wrong)))
    return net.train()


def on_meta() -> bool:
    """Whether networks are built as sizes alone just now, so that there is nothing to load into."""
    return torch.empty(0).is_meta


def keep_everything(net: nn.Module) -> None:
    """Has the state of a network hold all buffers: one that is built without memory gets them from its file."""
    for module in net.modules():
        module._non_persistent_buffers_set.clear()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own reports: what matters is told by an error."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
