"""The law of imports, as one table; small files; a test file for each file.

A room is a folder of `pipeline`, or one of the verbs that lie beside them. A room may import the rooms that the table
names for it, `base` and `models`, and itself; `base` and `models` import nothing. Imports inside functions and under
TYPE_CHECKING count too.

What `pipeline/tables/rows.py` does is tested by `tests/pipeline/tables/test_rows.py`, and so on for every file of the
library that holds more than imports; those that have no such file stand in a table, with the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

Value = TypeVar("Value")

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "pipeline", "jobs", "benchmarks")
MAX_LINES = 350

MAY_IMPORT = {
    "base": "",
    "storage": "",
    "pictures": "",
    "tables": "storage pictures",
    "datasets": "storage pictures",
    "runs": "storage tables",
    "prompts": "storage tables",
    "reader": "storage pictures tables",
    "formats": "storage pictures tables prompts",
    "cluster": "storage tables runs prompts",
    "evaluation": "tables prompts",
    "curation": "tables",
    "stages": "storage pictures tables datasets prompts evaluation curation",
    "pages": "storage pictures tables runs evaluation",
    "training": "storage pictures tables runs prompts reader cluster evaluation",
    "verb": "storage pictures tables datasets runs prompts reader formats cluster evaluation curation stages pages "
    "training",
}
"""Room -> the rooms that it may import. No verb imports another; `jobs` and `benchmarks` import whatever they need."""

ALLOWED = {
    "ray": {
        "": False,
        "pipeline.cluster": True,
        "pipeline.reader.ray_data": True,
        "pipeline.training": True,
        "pipeline.training.loop": False,  # runs where Ray is not installed, as do the next three
        "pipeline.training.state": False,
        "pipeline.training.task": False,
        "pipeline.training.tasks": False,
        "verb": True,
        "jobs": True,
        "benchmarks": True,
    },
    "mlflow": {"": False, "pipeline.runs.mlflow_server": True},
    "pyarrow": {"": True, "models": False},
}
"""Library -> the only places that may import it, by the longest name that fits; "" is every other place."""

LIBRARY = ("models", "pipeline")
WITHOUT_TEST = {
    "models/clip.py": "run by tests/pipeline/training/tasks/test_clip.py, on what train_clip leaves",
    "models/precision.py": "types alone",
    "pipeline/base/config.py": "run by tests/pipeline/base/test_command_line.py and test_places.py",
    "pipeline/base/errors.py": "types alone",
    "pipeline/base/log.py": "run by tests/pipeline/runs/test_run.py and by every job that a test starts",
    "pipeline/base/strict_yaml.py": "run by tests/pipeline/base/test_command_line.py",
    "pipeline/curate.py": "run by tests/pipeline/test_score.py, on what was scored",
    "pipeline/cluster/finish.py": "run by tests/pipeline/test_compact.py and test_generate.py",
    "pipeline/cluster/progress.py": "run by tests/pipeline/cluster/test_guard.py, test_processes.py and test_drive.py",
    "pipeline/cluster/submission.py": "run by tests/jobs/test_submit.py, on a cluster of its own",
    "pipeline/datasets/builtin_assets/make_assets.py": "made the pictures that ship, once; needs what it made them of",
    "pipeline/datasets/registry.py": "run by tests/pipeline/test_ingest.py and tests/jobs/test_inputs.py",
    "pipeline/evaluation/paper.py": "figures and a table; run by tests/jobs/test_paper_table.py",
    "pipeline/formats/card.py": "run by tests/pipeline/formats/test_huggingface.py, which reads the card",
    "pipeline/formats/registry.py": "a table alone; tests/pipeline/test_export.py writes every format in it",
    "pipeline/pages/shown.py": "run by tests/pipeline/pages/test_report_page.py and test_scored.py",
    "pipeline/pages/paper_page.py": "run by tests/jobs/test_paper_table.py",
    "pipeline/pictures/colour.py": "run by tests/pipeline/pictures/test_photograph.py, with profiles of every kind",
    "pipeline/prompts/rows.py": "run by tests/pipeline/prompts/test_read.py and tests/pipeline/cluster/test_todo.py",
    "pipeline/prompts/synonyms.py": "a table alone; tests/pipeline/prompts/test_classes.py",
    "pipeline/prompts/sources.py": "run by tests/pipeline/test_plan_prompts.py",
    "pipeline/reader/__init__.py": "run by tests/pipeline/reader/test_ray_data.py and tests/test_walkthrough.py",
    "pipeline/runs/config.py": "run by tests/pipeline/base/test_command_line.py and tests/pipeline/runs/test_run.py",
    "pipeline/stages/embed.py": "run by tests/pipeline/curation/test_planted.py and tests/models/test_embedder.py",
    "pipeline/stages/read.py": "run by the test of each data set in tests/pipeline/datasets",
    "pipeline/stages/score_nearest.py": "run by tests/pipeline/test_score.py and curation/test_nearest.py",
    "pipeline/tables/scores.py": "run by tests/pipeline/test_score.py",
    "pipeline/training/judging.py": "run by tests/pipeline/test_label.py",
    "pipeline/training/choosing.py": "run by tests/pipeline/training/test_proving.py",
    "pipeline/training/config.py": "run by tests/jobs/test_configs.py and tests/pipeline/training/test_proving.py",
    "pipeline/training/terms.py": "run by tests/pipeline/training/test_proving.py and test_evaluate_recipes.py",
    "pipeline/training/task.py": "types alone",
    "pipeline/training/tasks/vae.py": "run by tests/pipeline/training/test_fit.py",
    "pipeline/training/worker.py": "run by tests/pipeline/training/test_fit.py and tests/chaos/test_training_killed.py",
}
"""File -> why there is no test file of its name."""


def test_imports_point_down() -> None:
    assert list(wrong_imports(ROOT)) == []


def test_files_are_small() -> None:
    assert list(long_files(ROOT)) == []


def test_every_file_has_a_test_file_or_a_reason() -> None:
    assert list(untested(ROOT, WITHOUT_TEST)) == []


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("models/net.py", "import ray", "must not import ray"),
        ("models/net.py", "import pyarrow.parquet as pq", "must not import pyarrow"),
        ("models/net.py", "from pipeline.base.errors import DataError", "models may not import base"),
        ("models/net.py", "def f():\n    from jobs import command", "line 2"),
        ("pipeline/base/config.py", "from pipeline.storage.files import read_bytes", "base may not import storage"),
        ("pipeline/storage/files.py", "from pipeline import tables", "storage may not import tables"),
        ("pipeline/storage/files.py", "from ..tables import shards", "storage may not import tables"),
        ("pipeline/tables/rows.py", "import pipeline.stages.pack", "tables may not import stages"),
        ("pipeline/stages/pack.py", "if TYPE_CHECKING:\n    from ray.data import Dataset", "must not import ray"),
        ("pipeline/stages/pack.py", "from ..generate import graph", "stages may not import the verb generate"),
        ("pipeline/stages/pack.py", "from pipeline.training.loop import train", "stages may not import training"),
        ("pipeline/datasets/voc.py", "import ray.data", "must not import ray"),
        ("pipeline/training/loop.py", "import ray.train", "must not import ray"),
        ("pipeline/generate.py", "import mlflow", "must not import mlflow"),
        ("pipeline/runs/run.py", "import mlflow", "must not import mlflow"),
        ("pipeline/generate.py", "from jobs import generate", "generate may not import jobs"),
        ("pipeline/refine.py", "from pipeline.generate import graph", "refine may not import the verb generate"),
        ("pipeline/encode.py", "import benchmarks.refine", "encode may not import benchmarks"),
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
        ("pipeline/pictures/codec.py", "from models.labels import LabelSpace\nfrom . import masks"),
        ("pipeline/runs/mlflow_server.py", "from mlflow import MlflowClient\nfrom pipeline.base.config import Config"),
        ("pipeline/reader/ray_data.py", "from ray.data import Dataset\nfrom pipeline.tables import shards"),
        (
            "pipeline/stages/pack.py",
            "from pipeline.pictures.codec import encode_image\nfrom .refine import refine_masks",
        ),
        ("pipeline/encode.py", "import datasets, ray_like\nfrom pipeline.training.tasks.vae import load_labels"),
        ("jobs/demo.py", "from jobs import command\nimport ray\nfrom pipeline.generate import generate"),
    ],
)
def test_a_right_import_passes(tmp_path: Path, path: str, text: str) -> None:
    fabricate(tmp_path, path, text)

    assert list(wrong_imports(tmp_path)) == []


def test_the_rooms_are_those_of_the_table_and_its_root_holds_verbs_alone() -> None:
    rooms = {path.name for path in (ROOT / "pipeline").iterdir() if (path / "__init__.py").exists()}
    verbs = {path.stem for path in (ROOT / "pipeline").glob("*.py")} - {"__init__"}
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py")}

    assert rooms == MAY_IMPORT.keys() - {"verb"}
    assert verbs <= jobs, "a verb is a job's work"


def test_the_table_has_no_circle() -> None:
    left = {room: set(names.split()) for room, names in MAY_IMPORT.items()}
    while free := [room for room, below in left.items() if not below & left.keys()]:
        for room in free:
            del left[room]

    assert not left


def test_a_long_file_is_told(tmp_path: Path) -> None:
    fabricate(tmp_path, "pipeline/stages/pack.py", "x = 1\n" * MAX_LINES)
    fabricate(tmp_path, "pipeline/tables/shards.py", "x = 1\n" * (MAX_LINES + 1))

    (message,) = long_files(tmp_path)

    assert message.startswith("pipeline/tables/shards.py") and "351 lines" in message


def test_a_file_without_a_test_file_is_told(tmp_path: Path) -> None:
    for path in ("pipeline/tables/rows.py", "pipeline/tables/ids.py", "models/net.py", "pipeline/reader/__init__.py"):
        fabricate(tmp_path, path, "x = 1")
    fabricate(tmp_path, "pipeline/tables/__init__.py", '"""A room."""\nfrom pipeline.tables import rows')
    fabricate(tmp_path, "tests/pipeline/tables/test_rows.py", "")
    fabricate(tmp_path, "tests/models/test_ids.py", "")

    messages = list(untested(tmp_path, {"models/net.py": "types alone"}))

    assert [message.partition(":")[0] for message in messages] == [
        "pipeline/reader/__init__.py",
        "pipeline/tables/ids.py",
    ]
    assert "write tests/pipeline/tables/test_ids.py" in messages[1]


def test_a_reason_for_a_file_that_is_tested_or_gone_is_told(tmp_path: Path) -> None:
    fabricate(tmp_path, "pipeline/tables/rows.py", "x = 1")
    fabricate(tmp_path, "tests/pipeline/tables/test_rows.py", "")

    tested, gone = untested(tmp_path, {"pipeline/tables/rows.py": "why", "models/net.py": "why"})

    assert tested.startswith("pipeline/tables/rows.py: there is tests/pipeline/tables/test_rows.py")
    assert gone.startswith("models/net.py: gone")


def fabricate(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def wrong_imports(root: Path) -> Iterator[str]:
    """One message for each import below `root` that breaks the law."""
    for path in python_files(root):
        name = path.relative_to(root).as_posix()
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for line, imported in imports(path, module):
            top = imported.partition(".")[0]
            if top in ALLOWED and not longest(ALLOWED[top], "verb" if is_verb(module) else module):
                yield f"{name}, line {line}: {module} must not import {imported}"
            elif top in PACKAGES and not may_import(module, imported):
                what = f"the verb {room(imported)}" if is_verb(imported) else room(imported)
                yield f"{name}, line {line}: {room(module)} may not import {what} ({imported})"


def may_import(module: str, imported: str) -> bool:
    """Whether the law lets `module` import another of our modules."""
    here, there = room(module), room(imported)
    if module.startswith(("jobs", "benchmarks")) or here == there or imported == "pipeline":
        return True
    if here in ("models", "base") or imported.startswith(("jobs", "benchmarks")) or is_verb(imported):
        return False
    return there in ("base", "models", *MAY_IMPORT["verb" if is_verb(module) else here].split())


def room(module: str) -> str:
    """`models`, `jobs`, `benchmarks`, a folder of `pipeline`, or a verb."""
    top, *below = module.split(".")
    return below[0] if top == "pipeline" and below else top


def is_verb(module: str) -> bool:
    return module.startswith("pipeline.") and room(module) not in MAY_IMPORT


def long_files(root: Path) -> Iterator[str]:
    """One message for each file below `root` that is too long."""
    for path in python_files(root):
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > MAX_LINES:
            yield f"{path.relative_to(root).as_posix()}: {count} lines, {MAX_LINES} at most; split it"


def untested(root: Path, reasons: Mapping[str, str]) -> Iterator[str]:
    """One message for each file of the library with neither a test file nor a reason, and for each reason too many."""
    files = [path for path in python_files(root) if path.relative_to(root).parts[0] in LIBRARY and holds_logic(path)]
    names = [path.relative_to(root).as_posix() for path in files]
    for name in names:
        folder, _, file = name.rpartition("/")
        test = f"tests/{folder}/test_{file}"
        is_tested = (root / test).exists()
        if not is_tested and name not in reasons:
            yield f"{name}: write {test}, or say in WITHOUT_TEST why there is none"
        elif is_tested and name in reasons:
            yield f"{name}: there is {test}; take it out of WITHOUT_TEST"
    for name in reasons:
        if name not in names:
            yield f"{name}: gone, or nothing but imports; take it out of WITHOUT_TEST"


def holds_logic(path: Path) -> bool:
    """Whether a file holds more than imports and docstrings."""
    passive = (ast.Import, ast.ImportFrom, ast.Expr)
    return not all(isinstance(node, passive) for node in ast.parse(path.read_text(encoding="utf-8")).body)


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
            if source == "pipeline":  # `from pipeline import tables`: the room is inside
                for alias in node.names:
                    yield node.lineno, f"{source}.{alias.name}"
            else:
                yield node.lineno, source


def longest(table: dict[str, Value], module: str) -> Value:
    """The entry of `table` for the longest prefix of `module` that it has."""
    parts = module.split(".")
    for length in range(len(parts), -1, -1):
        if (name := ".".join(parts[:length])) in table:
            return table[name]
    raise KeyError(module)
