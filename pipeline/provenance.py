"""Provenance: which code, packages, device and data a run stands on."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.shards import open_shard, some_shards
from pipeline.storage.files import filesystem_of, reaching

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
REVISION = "JODIFFUSION_REVISION"
"""Environment variable with what `revision` gives, for code that was sent to a cluster without its history."""
DIRTY = "-dirty"


@functools.cache
def revision(root: Path = ROOT) -> str:
    """Commit of the checkout in `root`, with "-dirty" behind it where tracked files differ; "" where nothing tells."""
    if not (root / ".git").exists():  # else git would look further up, and find another project's
        return os.environ.get(REVISION, "")
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + DIRTY * bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):  # no git here, or a checkout of somebody else
        return os.environ.get(REVISION, "")


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def code_tags() -> dict[str, str]:
    """MLflow tags: the commit under MLflow's own name, whether the tree was dirty, versions of what computes."""
    tags = {"version.python": platform.python_version()}
    for name in ("torch", "ray"):
        with suppress(PackageNotFoundError):
            tags[f"version.{name}"] = version(name)
    if found := revision():
        tags["mlflow.source.git.commit"] = found.removesuffix(DIRTY)
        tags["git_dirty"] = str(found.endswith(DIRTY)).lower()
    return tags


def device_name(device: torch.device) -> str:
    """What computes, as its maker calls it: "NVIDIA H100 80GB HBM3", or the model of the CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class DataDigest:
    """What tells one set of shards from another.

    Attributes:
        folder: of the run that holds the shards.
        digest: 16 hex digits over names (hashes of the ids inside) and sizes of the shards, and the encoders.
        num_shards: number of them.
        num_bytes: of all of them.
        encoders: digest of the encoders that made latents; "" for pairs.
    """

    folder: str
    digest: str
    num_shards: int
    num_bytes: int
    encoders: str

    @classmethod
    def of(cls, folder: str) -> DataDigest:
        """Reads names, sizes and one footer.

        Raises:
            ShardError: there are no shards, or the first one is broken.
        """
        shards = some_shards(folder)
        with open_shard(shards[0]) as shard:
            encoders = (shard.schema_arrow.metadata or {}).get(b"encoders", b"").decode()
        parent = shards[0].rpartition("/")[0]
        filesystem, path = filesystem_of(parent)
        with reaching(parent):
            found = {info["name"].rpartition("/")[2]: int(info["size"]) for info in filesystem.ls(path, detail=True)}
        sizes = [(name, found[name]) for name in (shard.rpartition("/")[2] for shard in shards)]
        total = blake2b(repr((encoders, sizes)).encode(), digest_size=8).hexdigest()
        return cls(folder, total, len(sizes), sum(size for _, size in sizes), encoders)
