"""Ray Train around the loop: workers, restarts, and one command that goes on."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import ray.train
from ray.train import FailureConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from models.weights import WeightsError
from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError, JoDiffusionError, Stopped
from pipeline.base.log import log
from pipeline.base.places import as_given
from pipeline.cluster.connection import require
from pipeline.runs.run import Run
from pipeline.storage.files import is_file, read_bytes
from pipeline.tables.digest import DataDigest
from pipeline.training import notice
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.config import TrainingConfig
from pipeline.training.feed import Feed
from pipeline.training.loop import TrainingError
from pipeline.training.needs import training_needs
from pipeline.training.order import groups_of
from pipeline.training.side_by_side import side_by_side
from pipeline.training.task import Task
from pipeline.training.worker import SCORES, WEIGHTS_FOLDER, Assignment, Outcome, work

PATIENCE_S = 1800
"""How long workers wait for the one that judges or writes."""
RESIZE_S = 300.0
"""How often it is looked for room for more workers; to take them in, all begin again from the last checkpoint."""


def fit(task: Task, config: TrainingConfig, run: Run) -> dict[str, float]:
    """Trains `task` on the cluster, from the last checkpoint of `run` if there is one; returns its scores.

    The averaged weights end in `<run>/weights`, the scores in `<run>/scores.json`. A finished run returns at once,
    unless it is now to see more examples.

    Raises:
        ConfigError: the batch cannot be shared among the workers, or they do not fit on the cluster.
        TrainingError: whatever stopped the workers for good.
        Stopped: SIGINT, SIGTERM or `<run>/stop`; there is a checkpoint of the last step.
    """
    recipe, workers, folder = config.optimisation, config.workers, str(run.folder)
    if (found := _scores(folder)) and found["examples"] >= recipe.num_examples:
        log.info("%s is finished; its weights are in %s/%s", config.run, folder, WEIGHTS_FOLDER)
        return found
    if is_file(f"{folder}/train/checkpoint_manager_snapshot.json") and not Checkpoints(folder).steps():
        raise ConfigError(
            f"{folder} was begun by an earlier release, whose checkpoints cannot be read any more; take another --run"
        )
    if workers.gpus > 1 or (workers.num > 1 and workers.gpus % 1):
        raise ConfigError(
            f"workers.gpus is {workers.gpus:g}: a worker trains on one GPU, and several cannot share one; give 1, and "
            "with workers.num as many workers as there are GPUs"
        )
    # Workers read for themselves, so that nothing else needs room.
    require(workers.model_copy(update={"num": config.min_workers or workers.num}), room_cpus=0)
    if workers.num > recipe.batch_size or config.min_workers > workers.num:
        raise ConfigError(
            f"workers.num {workers.num} must be at most optimisation.batch_size {recipe.batch_size}, so that each "
            f"worker has a row, and at least min_workers {config.min_workers}"
        )
    held_out = Feed(
        (config.validation,),
        task.columns,
        task.decode,
        config.seed,
        config.cache,
        _threads(workers),
        slices=(config.validation_slice,),
    )
    feed = replace(
        held_out,
        folders=tuple(config.train),
        slices=config.slices,
        shares=config.shares,
        balanced=config.balanced,
    )
    rows = Counter({number: 0 for number in range(len(config.train))})
    for group in feed.groups():  # a wrong path is told now, not by every worker
        rows[group.folder] += len(group.rows)
    num_rows = rows.total()
    held_out.groups()
    if "prompt" in task.columns:
        tell_of_unprompted(config.train, config.slices)
    log.info(
        "%s: %s examples (%.1f epochs of %s) in %s steps of %d, on %s worker%s",
        config.run,
        f"{recipe.num_examples:,}",
        recipe.num_examples / num_rows,
        f"{num_rows:,}",
        f"{recipe.num_steps:,}",
        recipe.batch_size,
        f"{config.min_workers} to {workers.num}" if config.min_workers else workers.num,
        "s" * (workers.num > 1),
    )
    for number, share in enumerate(config.shares):
        seen = recipe.num_examples * share / sum(config.shares)
        log.info(
            "%s: of these %s (%.1f epochs of %s) of %s",
            config.run, f"{seen:,.0f}", seen / rows[number], f"{rows[number]:,}", as_given(config.train[number]),
        )  # fmt: skip
    needs = training_needs(
        task,
        recipe,
        feed.head(1),
        world_size=workers.num,
        strategy=config.strategy,
        recompute=config.recompute_activations,
        fused_attention=workers.gpus > 0,
    )
    log.info("%s", needs)
    sets = {"training": config.train, "validation": (config.validation,)}
    run.tracker.inputs({name: [DataDigest.of(one) for one in folders] for name, folders in sets.items()})
    Checkpoints(folder).remove_drafts()
    notice.forget(folder)
    outcome = _run_workers(Assignment(task, config, feed, held_out, run))
    if outcome.refusal:
        raise TrainingError(outcome.refusal)
    if outcome.stopped >= 0:
        raise Stopped(f"stopped at step {outcome.stopped:,} of {recipe.num_steps:,}, which is saved in {folder}")
    if (scores := _scores(folder)) is None:
        raise TrainingError(
            f"{folder}: the workers left no {SCORES}; the key `runs` must be a folder that all machines see"
        )
    return scores


def tell_of_unprompted(folders: Sequence[str], slices: Sequence[str]) -> None:
    """Warns where rows have no prompt, so that nothing is learned from them; arguments as of `groups_of`."""
    num, prompted = (
        sum(len(group.rows) for group in groups_of(folders, slices, prompted=asked)) for asked in (False, True)
    )
    if prompted < num:
        log.warning(
            "%s of %s pictures have no prompt and are left out; jobs.caption makes some",
            f"{num - prompted:,}", f"{num:,}",
        )  # fmt: skip


def _run_workers(assignment: Assignment) -> Outcome:
    """Runs all workers to the end, from the newest checkpoint on as often as one more was made since the last time.

    Raises:
        JoDiffusionError, WeightsError: the user's mistake that a worker met again and again.
        TrainingError: workers were lost too often without getting on.
    """
    config, folder = assignment.config, str(assignment.run.folder)
    checkpoints = Checkpoints(folder)
    while True:
        began_at = max(checkpoints.steps(), default=-1)
        try:
            # Ray keeps nothing there that matters: checkpoints are the run's own.
            with tempfile.TemporaryDirectory() as scratch:
                trainer = _trainer(assignment, scratch)
                return cast(Outcome, side_by_side({folder: trainer.fit})[folder].return_value)
        except ray.train.TrainingFailedError as error:
            if cause := _mistake(error):
                raise cause from error
            if max(checkpoints.steps(), default=-1) > began_at:
                log.warning("%s: workers were lost repeatedly, but training progressed; restarting", config.run)
                continue
            raise TrainingError(
                f"{config.run}: workers were lost more than max_failures={config.max_failures} times without a new "
                f"checkpoint; the same command goes on from the last one.\n{error}"
            ) from error


def _mistake(error: ray.train.TrainingFailedError) -> JoDiffusionError | WeightsError | None:
    """The user's mistake behind a failure, where it was one, weights that do not fit among them."""
    for found in getattr(error, "worker_failures", {}).values():
        cause = getattr(found, "_base_exc", found)
        if isinstance(cause, JoDiffusionError | WeightsError):
            return cause
    return None


def _trainer(assignment: Assignment, scratch: str) -> Any:
    config = assignment.config
    workers = config.workers
    return TorchTrainer(
        cast(Any, work),
        train_loop_config={"assignment": assignment},
        torch_config=TorchConfig(timeout_s=PATIENCE_S),
        scaling_config=cast(Any, ScalingConfig)(  # Ray annotates the one of its earlier trainer
            num_workers=(config.min_workers, workers.num) if config.min_workers else workers.num,
            use_gpu=workers.gpus > 0,
            elastic_resize_monitor_interval_s=RESIZE_S,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        run_config=cast(Any, ray.train.RunConfig)(
            name=config.run,
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[notice.Listening(), notice.Telling()],
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),  # Telling says what a user needs
        ),
    )


def _threads(workers: Workers) -> int:
    """Threads that read for a worker."""
    return max(1, int(workers.cpus) - 1)


def _scores(folder: str) -> dict[str, float] | None:
    try:
        return json.loads(read_bytes(f"{folder}/{SCORES}"))
    except FileNotFoundError:
        return None
