"""What the reference gives, and copies of its checkpoints to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.models.fabricated import TINY


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(TINY / "expected.safetensors")


@pytest.fixture
def base(tmp_path) -> Path:
    return Path(shutil.copytree(TINY / "unidiffuser", tmp_path / "base"))


@pytest.fixture
def unet(tmp_path) -> Path:
    return Path(shutil.copytree(TINY / "jodiffusion_unet", tmp_path / "joint"))
