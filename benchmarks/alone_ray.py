"""What stands in for Ray and MLflow in `benchmarks.alone`: just what this project calls of them.

A graph is run a stage at a time, its blocks in memory. The processes of a stage are new ones that have not touched the
GPU: one that was forked from a process that has could not use it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import multiprocessing
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Block = Any
"""A table, or arrays by column."""
PACKAGES = ("ray", "mlflow")
ON_GPU = "ALONE_ON_GPU"
"""Set in the processes of trainings whose workers have a GPU."""
PRELOADED = "benchmarks.alone_preload"
CONTEXT = multiprocessing.get_context("forkserver")
"""Of all processes: a server that has loaded what they need, and no GPU, forks them."""


def install() -> None:
    """Makes every import of Ray and MLflow from now on give the stand-ins."""
    if not any(isinstance(one, Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, Finder())
    CONTEXT.set_forkserver_preload([PRELOADED])


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of these packages, installed or not."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        wanted = name.partition(".")[0] in PACKAGES
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(PARTS.get(module.__name__, {}))


class StandIn(ModuleType):
    """A module in which any other name is a class that does nothing."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        kind = (Exception,) if name.endswith("Error") else (object,)
        made = type(name, kind, {"__module__": self.__name__, "__init__": lambda self, *args, **keys: None})
        setattr(self, name, made)
        return made


class Remote:
    """`ray.remote`: a function that is called at once, or a class whose methods are."""

    def __init__(self, what: Callable[..., Any]) -> None:
        self.what = what

    def options(self, **_: object) -> Remote:
        return self

    def remote(self, *args: Any, **keys: Any) -> Any:
        made = self.what(*args, **keys)
        return Actor(made) if isinstance(self.what, type) else made


class Actor:
    """An object whose methods are called as those of Ray's actors."""

    def __init__(self, one: object) -> None:
        self.one = one

    def __getattr__(self, name: str) -> Remote:
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(getattr(self.one, name))


class Context:
    """Of the one process that there is: of the driver, or of a training."""

    def get_node_id(self) -> str:
        return "here"

    get_job_id = get_node_id

    def get_world_size(self) -> int:
        return 1

    def get_world_rank(self) -> int:
        return 0

    get_local_rank = get_node_rank = get_world_rank


class Pool:
    """How many processes a stage has."""

    def __init__(self, size: int = 1, **_: object) -> None:
        self.size = size


class Dataset:
    """Blocks in memory."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = [one for one in blocks if num_rows(one)]

    def repartition(self, *, target_num_rows_per_block: int, **_: object) -> Dataset:
        return Dataset(cut(self.blocks, target_num_rows_per_block))

    def union(self, *others: Dataset) -> Dataset:
        return Dataset([block for one in (self, *others) for block in one.blocks])

    def map_batches(
        self,
        stage: Any,
        *,
        batch_size: int = 0,
        batch_format: str = "numpy",
        fn_constructor_args: tuple[Any, ...] = (),
        compute: Pool | None = None,
        **_: object,
    ) -> Dataset:
        batches = cut(self.blocks, batch_size)
        look = as_arrays if batch_format == "numpy" else as_table
        num = min(compute.size if compute else 1, len(batches))
        if not isinstance(stage, type):
            if num <= 1:
                return Dataset([stage(look(batch)) for batch in batches])
            stage, fn_constructor_args = Call, (stage,)
        with tempfile.TemporaryDirectory() as folder:
            processes = []
            for number in range(num):
                path = f"{folder}/{number}"
                with open(path, "wb") as file:
                    pickle.dump((stage, fn_constructor_args, look, batches[number::num]), file, protocol=5)
                processes.append(CONTEXT.Process(target=run_stage, args=(path,)))
                processes[-1].start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                sys.exit(f"a process of a stage ended with {[process.exitcode for process in processes]}")
            made: list[Block] = []
            for number in range(num):
                with open(f"{folder}/{number}", "rb") as file:
                    made += pickle.load(file)
        return Dataset(made)

    def write_datasink(self, sink: Any, **_: object) -> None:
        sink.write([as_table(block) for block in self.blocks], None)


class Call:
    """A stage that is a function."""

    def __init__(self, function: Callable[[Block], Block]) -> None:
        self.function = function

    def __call__(self, block: Block) -> Block:
        return self.function(block)


def run_stage(path: str) -> None:
    """What a process of a stage does: its batches are in a file of our own, where its results go too."""
    with open(path, "rb") as file:
        stage, args, look, batches = pickle.load(file)
    call = stage(*args)
    made = [call(look(batch)) for batch in batches]
    with open(path, "wb") as file:
        pickle.dump(made, file, protocol=5)


def num_rows(block: Block) -> int:
    return block.num_rows if isinstance(block, pa.Table) else len(next(iter(block.values()), ()))


def cut(blocks: Sequence[Block], size: int) -> list[Block]:
    """Blocks of `size` rows, the last one of what is left; as they are with 0."""
    if not blocks or not size:
        return list(blocks)
    if isinstance(blocks[0], dict):
        whole = {name: np.concatenate([one[name] for one in blocks]) for name in blocks[0]}
        starts = range(0, num_rows(whole), size)
        return [{name: values[start : start + size] for name, values in whole.items()} for start in starts]
    table = pa.concat_tables(blocks, promote_options="permissive")
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


def as_arrays(block: Block) -> dict[str, np.ndarray]:
    """Columns as Ray gives them: numbers that are all there as numbers, the rest as objects."""
    if isinstance(block, dict):
        return block
    found: dict[str, np.ndarray] = {}
    for name in block.column_names:
        column = block[name]
        if pa.types.is_primitive(column.type) and not column.null_count:
            found[name] = column.to_numpy()
        else:
            found[name] = np.empty(len(column), object)
            found[name][:] = column.to_pylist()
    return found


def as_table(block: Block) -> pa.Table:
    if isinstance(block, pa.Table):
        return block
    return pa.table({name: pa.array(one if one.ndim == 1 else one.tolist()) for name, one in block.items()})


def read_parquet(paths: Sequence[str], columns: list[str] | None = None, **_: object) -> Dataset:
    return Dataset([pq.read_table(path, columns=columns, partitioning=None) for path in paths])


def get_device() -> Any:
    import torch

    return torch.device("cuda:0" if os.environ.get(ON_GPU) else "cpu")


class RayError(Exception):
    """Of the stand-in, which raises none."""


LOSSES = ("RayTaskError", "OutOfMemoryError", "WorkerCrashedError", "ActorDiedError", "NodeDiedError")
PARTS: dict[str, dict[str, Any]] = {
    "ray": {
        "remote": Remote,
        "get": lambda value, **_: value,
        "put": lambda value: value,
        "wait": lambda values, **_: (values[:1], values[1:]),
        "get_runtime_context": Context,
    },
    "ray.exceptions": {"RayError": RayError, **{name: type(name, (RayError,), {}) for name in LOSSES}},
    "ray.data": {
        "Dataset": Dataset,
        "Datasink": object,
        "ActorPoolStrategy": Pool,
        "TaskPoolStrategy": Pool,
        "read_parquet": read_parquet,
        "from_arrow_refs": Dataset,
        "from_items": lambda items, **_: Dataset([pa.Table.from_pylist(items)] if items else []),
    },
    "ray.train": {"get_context": Context, "get_preemption_info": lambda: None},
    "ray.train.torch": {"get_device": get_device},
}
