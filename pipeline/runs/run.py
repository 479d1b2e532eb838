"""Run: a named execution. Its folder, its saved config, its tracker, its log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from pipeline.base.errors import ConfigError, Stopped
from pipeline.base.log import set_up_logging
from pipeline.base.places import Located, places
from pipeline.runs.config import CONFIG, RunConfig, saved_config
from pipeline.runs.tracking import KNOWN_RUN, LateTracker, Tracker, flat, open_tracker
from pipeline.storage.files import is_local
from pipeline.storage.publish import write_bytes
from pipeline.storage.sole_driver import sole_driver
from pipeline.tables.label_space import LABELS
from pipeline.tables.manifest import MANIFEST, THROUGHPUT

ALWAYS_CHANGEABLE = frozenset({"runs", "experiment", "tracking_uri", "workers", "at_once"})
"""Keys that say where a run is kept or how many machines work on it, but not what it makes."""
FORMER_JOBS = {"prompts": "plan_prompts", "train_segmenter": "evaluate", "train_text": "train_clip"}
"""Names that jobs had, which older runs are saved under."""
NOTES = {KNOWN_RUN, LABELS, MANIFEST, THROUGHPUT}
"""Files of a run that hold nothing that was made."""


@dataclass(frozen=True)
class Run:
    """An open run."""

    folder: Path
    tracker: Tracker

    @classmethod
    @contextmanager
    def open(
        cls,
        config: RunConfig,
        job: str,
        changeable: frozenset[str] = frozenset(),
        facts: Mapping[str, str] = MappingProxyType({}),
        *,
        on_store: bool = False,
        waits: bool = True,
    ) -> Iterator[Run]:
        """Opens the run that `config` names, new or to go on with, for this process alone.

        Args:
            config: saved as `config.yaml` in the run's folder.
            job: name of the job; a run belongs to one.
            changeable: further keys that may differ from those that the run began with.
            facts: what the run depends on beside its config, such as the digest of a file; saved with it, and must not
                change either.
            on_store: the job can keep its run on an object store.
            waits: for MLflow; else the job begins meanwhile, and asks (`LateTracker`).

        Raises:
            ConfigError: the folder belongs to another job or config (prints the difference), or to a running process.
        """
        set_up_logging()
        folder = config.folder
        if not on_store and not is_local(str(folder)):
            raise ConfigError(
                f"runs: {job} cannot write to an object store yet; give a folder all machines share, not {folder}"
            )
        with sole_driver(str(folder)):
            values = {"job": job, **config.dump(), **facts}
            is_begun = _check_and_save(folder, config, values, changeable | ALWAYS_CHANGEABLE)
            opening = partial(open_tracker, config, folder, job, is_begun)
            tracker = opening() if waits else LateTracker(config.mlflow_uri, opening)
            tracker.parameters({**config.dump(), **facts}, whole=True)
            try:
                yield cls(folder, tracker)
            except (KeyboardInterrupt, Stopped):
                tracker.finish("KILLED")
                raise
            except BaseException:
                tracker.finish("FAILED")
                raise
            tracker.finish("FINISHED")


def _has_made_nothing(folder: Path) -> bool:
    kept = (
        "shards/*.parquet",
        "errors/*.parquet",
        "checkpoints/*",
        "train/step_*",
        "weights",
        "tokenizer",
        "*.json",
    )
    return not any(path.name not in NOTES for pattern in kept for path in folder.glob(pattern))


def _resolved(place: Any) -> Any:
    """A place of a saved config, or several, as configs have them; what is no text stays as it is."""
    if isinstance(place, list):
        return [*map(_resolved, place)]
    return str(Located(place)) if place and isinstance(place, str) else place


def _shown(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return "(not set)"
    return str(values[key]) or "(empty)"


def _check_and_save(folder: Path, config: RunConfig, values: dict[str, Any], changeable: frozenset[str]) -> bool:
    """Compares what a run was begun with, and saves its config; returns whether it has made something."""
    binds = not _has_made_nothing(folder)  # a first try that failed at once binds nobody
    try:
        saved = saved_config(folder)
    except ConfigError:
        if binds:
            raise
        saved = {}
    begun_by = saved.get("job", "another program")
    begun_by = FORMER_JOBS.get(begun_by, begun_by)
    if saved and begun_by != values["job"]:
        if binds:
            raise ConfigError(f"{folder} is a run of {begun_by}, not of {values['job']}; take another --run name")
        _forget_mlflow(folder)
        saved = {}  # keys of one name may mean two things
    if saved:
        # A key that the run does not know came later: it was begun as if with the default.
        now, known = flat(values), flat(saved)
        before = known | {key: one for key, one in flat(config.defaults()).items() if key in now and key not in known}
        for key in {key for key, _ in places(config)} & before.keys():  # earlier releases saved them as they were given
            before[key] = _resolved(before[key])
        before["job"] = begun_by
        changed = [
            f"  {key}: {_shown(before, key)} -> {_shown(now, key)}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not {key, key.split(".")[0]} & changeable
        ]
        if changed and binds:
            raise ConfigError(
                f"{folder} was begun with another config:\n"
                + "\n".join(changed)
                + "\nTake another --run name, or undo "
                "the change to go on with this run."
            )
        if changed:
            _forget_mlflow(folder)
    write_bytes(f"{folder}/{CONFIG}", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
    return binds


def _forget_mlflow(folder: Path) -> None:
    """Gives a folder a new MLflow run: the parameters of the one before would stand beside the numbers of this one."""
    (folder / KNOWN_RUN).unlink(missing_ok=True)
