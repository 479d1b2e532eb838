"""The checkpoints of a training: `<run>/checkpoints/step_00001234.safetensors`, on a disk or on a store.

Each is one file with everything (TrainState.snapshot), whatever the number of workers was, and appears when whole.
The files are the truth: what there is, which is newest and which is best is read from them.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.base.errors import DataError, ShardError
from pipeline.base.log import log
from pipeline.storage.copies import local_file
from pipeline.storage.files import describe, filesystem_of, is_local, names_in, reaching
from pipeline.storage.publish import publish_file

FOLDER = "checkpoints"
MAX_HEADER_BYTES = 10**8


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself. `score` is lower for better ones, NaN where none was judged at its step."""

    step: int
    examples: int
    seconds: float = 0.0
    score: float = math.nan


class BrokenCheckpointError(DataError):
    """A checkpoint that is there and can be read, but is not what was written."""


class Checkpoints:
    """Those of one run. One worker writes and removes; any may read.

    Args:
        run: its folder, a path or a URL.
        keep: how many of the newest stay. The best one, where any has a score, stays besides.
    """

    def __init__(self, run: str, keep: int = 2) -> None:
        self.folder, self.keep = f"{run}/{FOLDER}", keep
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._scores: dict[int, float] = {}
        self._broken: set[int] = set()
        self._copies: set[Path] = set()
        self.written_s = 0.0
        """What the last write took, beside the training."""

    def steps(self) -> list[int]:
        """Steps of the checkpoints that there are, newest first."""
        found = (re.fullmatch(r"step_(\d+)\.safetensors", name) for name in names_in(self.folder))
        return sorted((int(one[1]) for one in found if one), reverse=True)

    def path(self, step: int) -> str:
        """The file of a step."""
        return f"{self.folder}/step_{step:08d}.safetensors"

    def write(self, tensors: Mapping[str, Tensor], facts: Header) -> None:
        """Begins to write a checkpoint beside the training; waits for the one before.

        What cannot be written is told as a warning: the training goes on, and the checkpoints before stay.
        """
        self.wait()
        self._pending = self._writer.submit(self._write, dict(tensors), facts)

    def wait(self) -> None:
        """Returns when nothing is being written any more."""
        if self._pending:
            self._pending.result()
        self._pending = None

    def newest(self) -> int:
        """Step of the newest checkpoint that is whole; -1 where there are none. Broken ones are told and passed over.

        Raises:
            DataError: one cannot be read, or all are broken: nobody's work is begun anew without a word.
        """
        steps = self.steps()
        for step in steps:
            try:
                self._verify(step)
                return step
            except BrokenCheckpointError as error:
                self._broken.add(step)
                log.warning("%s; taking the checkpoint before it", error)
        if steps:
            raise DataError(f"{self.folder}: all checkpoints are broken; remove the folder to begin this training anew")
        return -1

    @contextmanager
    def open(self, step: int) -> Iterator[tuple[Mapping[str, Tensor], Header]]:
        """Tensors, each read when it is asked for, and facts of a checkpoint.

        Raises:
            DataError: it is broken, or cannot be read.
        """
        with self._opened(step) as file:
            yield _Tensors(file), _facts(file)

    def remove_copies(self) -> None:
        """Removes what was fetched from a store; nobody on this machine may be reading."""
        for copy in self._copies:
            copy.unlink(missing_ok=True)
        self._copies.clear()

    @contextmanager
    def _opened(self, step: int) -> Iterator[Any]:
        """The file of a step as safe_open has it, with errors that say which is broken."""
        path, url = self._local(step), self.path(step)
        try:
            with safe_open(path, "pt") as file:
                yield file
        except OSError as error:
            raise DataError(f"cannot read {url}: {describe(error)}; correct access to it") from error
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise BrokenCheckpointError(f"{url}: broken checkpoint ({describe(error)})") from error

    def _verify(self, step: int) -> None:
        with self._opened(step) as file:
            expected = json.loads((file.metadata() or {})["checksums"])
            for name in file.keys():  # noqa: SIM118 (no dictionary)
                if _checksum(file.get_tensor(name)) != expected.get(name):
                    raise BrokenCheckpointError(
                        f"{self.path(step)}: broken checkpoint ({name} is not what was written)"
                    )
            _facts(file)

    def _local(self, step: int) -> Path:
        """A file of this machine with a checkpoint: itself, or a copy that the machine's workers share."""
        try:
            found = local_file(self.path(step))
        except OSError as error:
            raise DataError(f"cannot read {self.path(step)}: {describe(error)}; correct access to it") from error
        if not is_local(self.folder):
            self._copies.add(found)
        return found

    def remove_drafts(self) -> None:
        """Removes what killed writers left; nobody may be writing."""
        if is_local(self.folder):
            for draft in Path(filesystem_of(self.folder)[1]).glob(".*.draft"):
                shutil.rmtree(draft, ignore_errors=True)

    def _write(self, tensors: dict[str, Tensor], facts: Header) -> None:
        began = time.monotonic()
        sums = {name: _checksum(tensor) for name, tensor in tensors.items()}
        metadata = {"facts": json.dumps(asdict(facts)), "checksums": json.dumps(sums)}
        path = self.path(facts.step)
        try:
            publish_file(path, lambda draft: save_file(tensors, draft, metadata))
        except (ShardError, SafetensorError) as error:
            log.warning("checkpoint of step %d was not kept: %s", facts.step, describe(error))
            return
        self._scores[facts.step] = facts.score
        try:
            self._remove_others(facts.step)
        except DataError as error:
            log.warning("old checkpoints stay for now: %s", error)
        self.written_s = time.monotonic() - began

    def _remove_others(self, newest: int) -> None:
        """Keeps the newest and the best; those behind `newest` are broken, or it would not have been written."""
        steps = self.steps()
        whole = [step for step in steps if step <= newest and step not in self._broken]
        kept = set(whole[: self.keep])
        scores = {step: self._score(step) for step in whole}
        judged = {step: score for step, score in scores.items() if not math.isnan(score)}
        if judged:
            kept.add(min(judged, key=lambda step: (judged[step], -step)))
        filesystem, _ = filesystem_of(self.folder)
        for step in steps:
            if step not in kept:
                try:
                    filesystem.rm_file(filesystem_of(self.path(step))[1])
                except Exception as error:  # every store has errors of its own; the file only takes room
                    log.warning("%s could not be removed: %s", self.path(step), describe(error))

    def _score(self, step: int) -> float:
        if step not in self._scores:
            try:
                self._scores[step] = read_header(self.path(step)).score
            except (BrokenCheckpointError, FileNotFoundError):
                self._scores[step] = math.nan
        return self._scores[step]


class _Tensors(Mapping[str, Tensor]):
    """The tensors of an open file."""

    def __init__(self, file: Any) -> None:
        self.file, self.names = file, list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def read_header(url: str) -> Header:
    """What a checkpoint says of itself, without its tensors.

    Raises:
        FileNotFoundError: there is none.
        BrokenCheckpointError: it has no facts.
        DataError: it cannot be reached.
    """
    filesystem, path = filesystem_of(url)
    try:
        with reaching(url):
            size = int.from_bytes(filesystem.cat_file(path, 0, 8), "little")
            header = filesystem.cat_file(path, 8, 8 + size) if size < MAX_HEADER_BYTES else b""
        return Header(**json.loads(json.loads(header)["__metadata__"]["facts"]))
    except (KeyError, ValueError, TypeError) as error:
        raise BrokenCheckpointError(f"{url}: broken checkpoint ({describe(error)})") from error


def _facts(file: Any) -> Header:
    return Header(**json.loads((file.metadata() or {})["facts"]))


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
