"""A job on this machine alone, without Ray and MLflow: `python -m benchmarks.alone JOB ...`, else as `jobs.JOB`.

For trials on a machine that has torch and transformers, but neither of both. What is written is what the job writes, by
the same code (tested): stages run one after the other with their blocks in memory, trainings in a process each,
`at_once` side by side, with one worker. Nothing that dies is tried again and nothing goes to MLflow. Ctrl-C lets
trainings end with a checkpoint; of other jobs nothing is kept.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import typing

from benchmarks.alone_jobs import nothing, prepare


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    prepare()
    from jobs import ending
    from pipeline.base.command_line import parse
    from pipeline.base.log import set_up_logging

    name = sys.argv.pop(1)
    if not name.isidentifier() or importlib.util.find_spec(f"jobs.{name}") is None:
        sys.exit(f"error: there is no job {name}; python -m jobs lists them")
    job = importlib.import_module(f"jobs.{name}")
    kind = typing.get_type_hints(getattr(job, "main", None) or nothing).get("config")
    if kind is None:
        sys.exit(f"error: the job {name} takes no config, so that it cannot be run so; use python -m jobs.{name}")
    set_up_logging()
    with ending():
        config = parse(kind, program=f"python -m benchmarks.alone {name}")
        config.check_inputs()
        job.main(config)


if __name__ == "__main__":
    main()
