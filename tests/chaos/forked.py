"""A job whose Ray forks its workers as the tests' own does: `python -m tests.chaos.forked MODULE ARGUMENTS`."""

from __future__ import annotations

import runpy
import sys
from functools import partial
from pathlib import Path

from ray._private import parameter

ZYGOTE = str(Path(__file__).parents[1] / "zygote.py")

if __name__ == "__main__":
    parameter.RayParams = partial(parameter.RayParams, setup_worker_path=ZYGOTE)  # type: ignore[assignment,misc]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
