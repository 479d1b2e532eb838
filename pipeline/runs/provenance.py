"""Provenance: which code, packages, device and data a run stands on."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


ROOT = Path(__file__).resolve().parents[2]
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
