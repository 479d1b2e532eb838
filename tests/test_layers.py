"""Imports point down only, and files stay small.

The contract: jobs -> pipeline graphs, training -> stages, datasets -> shards, manifest, run -> schema, codec, config,
errors -> models. Some libraries are kept to some layers. Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

Value = TypeVar("Value")

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "pipeline", "jobs", "benchmarks")
MAX_LINES = 350

LAYERS = ("models", "base", "tables", "stages", "graphs", "jobs")  # bottom to top; a file may import its own layer
LAYER_OF = {
    "models": "models",
    "pipeline.base.errors": "base",
    "pipeline.base.config": "base",
    "pipeline.pictures.codec": "base",
    "pipeline.tables.schema": "base",
    "pipeline.storage.sole_driver": "base",
    "pipeline.storage.files": "base",
    "pipeline.tables.shards": "tables",
    "pipeline.prompts.read": "tables",
    "pipeline.reader.order": "tables",
    "pipeline.cluster.progress": "tables",
    "pipeline.cluster.sink": "tables",
    "pipeline.tables.manifest": "tables",
    "pipeline.runs.run": "tables",
    "pipeline.runs.tracking": "tables",
    "pipeline.runs.outbox": "tables",
    "pipeline.runs.provenance": "tables",
    "pipeline.stages": "stages",
    "pipeline.datasets": "stages",
    "pipeline.reader.pair_dataset": "stages",
    "pipeline.formats": "stages",
    "pipeline": "graphs",  # whatever is not named above, training included
    "jobs": "jobs",
    "benchmarks": "jobs",
}

# Library -> the only places that may import it, by the longest name that fits; "" is every other place.
ALLOWED = {
    "ray": {
        "": False,
        "pipeline": True,
        "pipeline.base.errors": False,
        "pipeline.base.config": False,
        "pipeline.pictures.codec": False,
        "pipeline.tables.schema": False,
        "pipeline.storage.files": False,
        "pipeline.prompts.read": False,
        "pipeline.tables.manifest": False,
        "pipeline.runs.run": False,
        "pipeline.runs.tracking": False,
        "pipeline.runs.outbox": False,
        "pipeline.runs.provenance": False,
        "pipeline.stages": False,
        "pipeline.datasets": False,
        "pipeline.reader.order": False,
        "pipeline.reader.pair_dataset": False,  # people read what was made where Ray is not installed
        "pipeline.formats": False,
        "pipeline.training.loop": False,  # runs where Ray is not installed, as do the next three
        "pipeline.training.state": False,
        "pipeline.runs.history": False,
        "pipeline.training.task": False,
        "jobs": True,
        "benchmarks": True,
    },
    "mlflow": {"": False, "pipeline.runs.tracking": True},
    "pyarrow": {"": True, "models": False},
}


def test_imports_point_down() -> None:
    assert list(wrong_imports(ROOT)) == []


def test_files_are_small() -> None:
    assert list(long_files(ROOT)) == []


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("models/net.py", "import ray", "must not import ray"),
        ("models/net.py", "import pyarrow.parquet as pq", "must not import pyarrow"),
        ("models/net.py", "from pipeline.base.errors import DataError", "points up"),
        ("models/net.py", "def f():\n    from jobs import command", "line 2"),
        ("pipeline/tables/schema.py", "from pipeline.tables.shards import write_table", "points up"),
        ("pipeline/tables/schema.py", "from pipeline import shards", "points up"),
        ("pipeline/tables/schema.py", "from . import shards", "points up"),
        ("pipeline/tables/schema.py", "from .stages.pack import pack_pairs", "points up"),
        ("pipeline/tables/shards.py", "import pipeline.stages.pack", "points up"),
        ("pipeline/stages/pack.py", "if TYPE_CHECKING:\n    from ray.data import Dataset", "must not import ray"),
        ("pipeline/stages/pack.py", "from ..generate import graph", "points up"),
        ("pipeline/stages/pack.py", "from pipeline.training.loop import train", "points up"),
        ("pipeline/datasets/voc.py", "import ray.data", "must not import ray"),
        ("pipeline/training/loop.py", "import ray.train", "must not import ray"),
        ("pipeline/generate.py", "import mlflow", "must not import mlflow"),
        ("pipeline/runs/run.py", "import mlflow", "must not import mlflow"),
        ("pipeline/generate.py", "from jobs import generate", "points up"),
        ("pipeline/encode.py", "import benchmarks.refine", "points up"),
    ],
)
def test_a_wrong_import_is_told(tmp_path: Path, path: str, text: str, told: str) -> None:
    fabricate(tmp_path, path, text)

    (message,) = wrong_imports(tmp_path)

    assert message.startswith(f"{path}, line ") and told in message


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("models/net.py", "import torch\nfrom models.labels import LabelSpace"),
        ("pipeline/pictures/codec.py", "from models.labels import LabelSpace\nfrom . import errors"),
        ("pipeline/runs/tracking.py", "from mlflow import MlflowClient\nfrom pipeline.base.config import Config"),
        ("pipeline/tables/shards.py", "from ray.data import Datasink\nfrom pipeline import schema"),
        (
            "pipeline/stages/pack.py",
            "from pipeline.pictures.codec import encode_image\nfrom .refine import refine_masks",
        ),
        ("pipeline/encode.py", "import datasets, ray_like\nfrom pipeline.training.vae import load_labels"),
        ("jobs/demo.py", "from jobs import command\nimport ray\nfrom pipeline.generate import generate"),
    ],
)
def test_a_right_import_passes(tmp_path: Path, path: str, text: str) -> None:
    fabricate(tmp_path, path, text)

    assert list(wrong_imports(tmp_path)) == []


def test_a_long_file_is_told(tmp_path: Path) -> None:
    fabricate(tmp_path, "pipeline/stages/pack.py", "x = 1\n" * MAX_LINES)
    fabricate(tmp_path, "pipeline/tables/shards.py", "x = 1\n" * (MAX_LINES + 1))

    (message,) = long_files(tmp_path)

    assert message.startswith("pipeline/tables/shards.py") and "351 lines" in message


def fabricate(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def wrong_imports(root: Path) -> Iterator[str]:
    """One message for each import below `root` that breaks the contract."""
    for path in python_files(root):
        name = path.relative_to(root).as_posix()
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for line, imported in imports(path, module):
            top = imported.partition(".")[0]
            if top in ALLOWED and not longest(ALLOWED[top], module):
                yield f"{name}, line {line}: {module} must not import {imported}"
            elif top in PACKAGES and rank(imported) > rank(module):
                layers = f"{layer(module)} -> {layer(imported)}"
                yield f"{name}, line {line}: {module} imports {imported}, which points up ({layers})"


def long_files(root: Path) -> Iterator[str]:
    """One message for each file below `root` that is too long."""
    for path in python_files(root):
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > MAX_LINES:
            yield f"{path.relative_to(root).as_posix()}: {count} lines, {MAX_LINES} at most; split it"


def python_files(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported in a file, wherever it stands."""
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            if source == "pipeline":  # `from pipeline import shards`: the layer is that of the module inside
                for alias in node.names:
                    yield node.lineno, f"{source}.{alias.name}"
            else:
                yield node.lineno, source


def layer(module: str) -> str:
    return longest(LAYER_OF, module)


def rank(module: str) -> int:
    return LAYERS.index(layer(module))


def longest(table: dict[str, Value], module: str) -> Value:
    """The entry of `table` for the longest prefix of `module` that it has."""
    parts = module.split(".")
    for length in range(len(parts), -1, -1):
        if (name := ".".join(parts[:length])) in table:
            return table[name]
    raise KeyError(module)
