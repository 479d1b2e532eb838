"""`python -m jobs` and the console script `jodiffusion`: list the jobs, or run one."""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from pathlib import Path

from jobs import RENAMED, renamed

USAGE = """\
Run one:   jodiffusion NAME CONFIG.yaml [--key value ...]    or    python -m jobs.NAME CONFIG.yaml [--key value ...]
Settings:  jodiffusion NAME --help
"""


def main() -> None:
    """Entry point. An unknown name ends in exit code 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(listing())
        return
    name = known_job(arguments[0])
    sys.argv = arguments
    runpy.run_module(f"jobs.{name}", run_name="__main__", alter_sys=True)


def known_job(given: str) -> str:
    """The module name of a job, with or without hyphens; an unknown one ends in a suggestion and exit code 2."""
    name, names = given.replace("-", "_"), [path.stem for path in job_files()]
    if name in RENAMED:
        renamed(name)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"
        sys.stderr.write(f"error: no job is called {given}; {hint}\n")
        sys.exit(2)
    return name


def listing() -> str:
    """One line a job, the first of its docstring, read from the files: importing them would load torch and Ray."""
    paths = job_files()
    width = max((len(path.stem) for path in paths), default=0)
    lines = [f"  {path.stem:{width}}  {summary(path)}" for path in paths]
    return "Jobs:\n" + "\n".join(lines) + "\n\n" + USAGE


def summary(path: Path) -> str:
    """First line of the docstring of a module."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "(no description)"
    return text.splitlines()[0]


def job_files() -> list[Path]:
    """The modules of this package that are jobs, by name."""
    paths = Path(__file__).parent.glob("*.py")
    return sorted(path for path in paths if not path.stem.startswith("_") and path.stem not in RENAMED)


if __name__ == "__main__":
    main()
