"""Ray Train around the loop: workers, checkpoints, restarts, and one process that logs."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import ray.train
import ray.train.torch
import torch
from pydantic import Field
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.cluster import require
from pipeline.config import RunConfig, Workers, absolute
from pipeline.errors import ConfigError, JoDiffusionError
from pipeline.run import Run, Tracker, clock, log, set_up_logging
from pipeline.training.feed import Feed
from pipeline.training.loop import Optimisation, Report, TrainingError, optimizers, train
from pipeline.training.state import TrainState
from pipeline.training.task import Task

SAFE_TO_CHANGE = frozenset(
    {
        "optimisation.num_examples",  # a longer training goes on from the last checkpoint of a shorter one
        "checkpoint_examples",
        "evaluate_examples",
        "log_every_s",
        "max_failures",
        "cache",
    }
)
WEIGHTS, SCORES = "weights", "scores.json"


class TrainingConfig(RunConfig):
    """What every training needs besides its network."""

    train: tuple[str, ...] = Field(min_length=1)
    """Folders of runs whose shards are trained on; several count as one set."""
    validation: str
    """Folder of a run with held-out shards."""
    validation_rows: int = Field(512, ge=1)
    """Held-out examples that the network is judged on."""
    optimisation: Optimisation
    """The recipe."""
    workers: Workers = Workers()
    """Training processes; with GPUs, one each."""
    cache: bool = True
    """Keep the decoded examples in each worker's memory. Off: stream them again every epoch."""
    checkpoint_examples: int = Field(20_000, ge=1)
    """Examples between checkpoints."""
    evaluate_examples: int = Field(0, ge=0)
    """Examples between judgements on held-out data; 0 judges only at the end."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines and MLflow points."""
    max_failures: int = Field(3, ge=0)
    """Restarts from the last checkpoint after a worker is lost."""


@dataclass(frozen=True)
class Assignment:
    """What a worker is told."""

    task: Task
    config: TrainingConfig
    feed: Feed
    held_out: Feed
    run: Run


def fit(task: Task, config: TrainingConfig, run: Run) -> dict[str, float]:
    """Trains `task` on the cluster, from the last checkpoint of `run` if there is one; returns its scores.

    The averaged weights end in `<run>/weights`, the scores in `<run>/scores.json`. A finished run returns at once,
    unless it is now to see more examples.

    Raises:
        ConfigError: the batch cannot be shared among the workers.
        JoDiffusionError: whatever stopped a worker for good.
    """
    scores = run.folder / SCORES
    recipe, workers = config.optimisation, config.workers
    if scores.exists() and (found := json.loads(scores.read_text()))["examples"] >= recipe.num_examples:
        log.info("%s is finished; its weights are in %s", run.folder.name, run.folder / WEIGHTS)
        return found
    require(workers)
    if recipe.batch_size % workers.num or recipe.batch_size // workers.num < recipe.accumulation:
        raise ConfigError(
            f"optimisation.batch_size {recipe.batch_size} cannot be shared evenly among workers.num {workers.num} with "
            f"optimisation.accumulation {recipe.accumulation} parts each; make it a multiple of both"
        )
    log.info(
        "%s: %d examples in %d steps of %d, on %d worker%s",
        run.folder.name,
        recipe.num_examples,
        recipe.num_steps,
        recipe.batch_size,
        workers.num,
        "s" * (workers.num > 1),
    )
    feed = Feed(tuple(map(absolute, config.train)), task.columns, task.decode, seed=config.seed, cache=config.cache)
    held_out = Feed((absolute(config.validation),), task.columns, task.decode)
    for needed in (replace(feed, world_size=workers.num), held_out):
        needed.files()  # a wrong path is told now, not by every worker
    trainer = TorchTrainer(
        cast(Any, _worker),
        train_loop_config={"assignment": Assignment(task, config, feed, held_out, run)},
        scaling_config=ScalingConfig(
            num_workers=workers.num,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(run.folder),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        refusal = cast(Any, trainer.fit()).return_value  # Ray annotates the result of its earlier trainer
    except ray.train.TrainingFailedError as error:
        raise TrainingError(
            f"{run.folder.name}: workers were lost more than max_failures={config.max_failures} times; the same "
            f"command goes on from the last checkpoint.\n{error}"
        ) from error
    if refusal:
        raise TrainingError(refusal)
    return json.loads(scores.read_text())


def _worker(settings: dict[str, Any]) -> str:
    """One training process. Returns why training cannot go on: Ray would only try again what is raised."""
    try:
        _train(settings["assignment"])
    except TrainingError as error:  # all workers see the same gradient, so they stop together
        return str(error)
    except JoDiffusionError as error:
        if ray.train.get_context().get_world_size() > 1:
            raise  # the others wait for this worker
        return str(error)
    return ""


def _train(assignment: Assignment) -> None:
    task, config, tracker = assignment.task, assignment.config, assignment.run.tracker
    recipe = config.optimisation
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if config.workers.threads:
        torch.set_num_threads(config.workers.threads)
    set_up_logging()
    device = ray.train.torch.get_device()
    torch.manual_seed(config.seed)  # every worker begins with the same weights
    net = task.build().to(device)
    state = TrainState(net, optimizers(net, recipe))
    leads = rank == 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            state.load(folder)
        if leads:
            log.info("goes on from step %d of %d", state.step, recipe.num_steps)
    wrapped = ray.train.torch.prepare_model(net) if world_size > 1 else net
    feed = replace(assignment.feed, rank=rank, world_size=world_size)
    held_out = {name: value.to(device) for name, value in assignment.held_out.head(config.validation_rows).items()}
    progress = Progress(recipe, tracker, config.log_every_s, state.step)

    batches = feed.batches(recipe.batch_size // world_size, state.step)
    for report in train(task, wrapped, state, batches, recipe, device=device, seed=config.seed, rank=rank):
        if leads:
            progress(report)
        if _due(report, recipe, config.checkpoint_examples) or state.step == recipe.num_steps:
            with _checkpoint(state, leads) as checkpoint:
                ray.train.report(
                    {"examples": report.examples},
                    checkpoint=checkpoint,
                    checkpoint_dir_name=f"step_{state.step:08d}",
                )
        if leads and config.evaluate_examples and _due(report, recipe, config.evaluate_examples):
            _evaluate(task, state, held_out, tracker, report.examples)
    if leads:
        with torch.no_grad():  # before the scores: judging must not cost the weights
            task.save(state.average, held_out, assignment.run.folder / WEIGHTS)
        scores = _evaluate(task, state, held_out, tracker, state.step * recipe.batch_size)
        draft = assignment.run.folder / f"{SCORES}.draft"
        facts = {
            "examples": max(recipe.num_examples, state.step * recipe.batch_size),
            "training_s": round(state.seconds, 1),
        }
        draft.write_text(json.dumps({**scores, **facts}, indent=1))
        os.replace(draft, assignment.run.folder / SCORES)


def _due(report: Report, recipe: Optimisation, every: int) -> bool:
    """Whether this step is the first at or behind a multiple of `every` examples."""
    return report.examples // every > (report.examples - recipe.batch_size) // every


@contextmanager
def _checkpoint(state: TrainState, leads: bool) -> Iterator[Checkpoint | None]:
    """A checkpoint folder of the leading worker, gone when it has been uploaded; None on the others."""
    if not leads:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        state.save(folder)
        yield Checkpoint.from_directory(folder)


def _evaluate(
    task: Task, state: TrainState, held_out: dict[str, torch.Tensor], tracker: Tracker, examples: int
) -> dict[str, float]:
    with torch.no_grad():
        evaluation = task.evaluate(state.average, held_out)
    log.info("after %d examples: %s", examples, "  ".join(f"{k} {v:.4f}" for k, v in evaluation.metrics.items()))
    tracker.metrics({f"validation/{name}": value for name, value in evaluation.metrics.items()}, examples)
    for name, picture in evaluation.pictures.items():
        tracker.picture(f"{name}/{examples:010d}.png", picture)
    return evaluation.metrics


class Progress:
    """Prints and logs means of the steps since the last line, with the time that is left."""

    def __init__(self, recipe: Optimisation, tracker: Tracker, every_s: float, step: int) -> None:
        self.recipe, self.tracker, self.every_s = recipe, tracker, every_s
        self.began = self.printed = time.monotonic()
        self.first_step = step
        self.sums: dict[str, float] = {}
        self.count = 0

    def __call__(self, report: Report) -> None:
        values = {**report.losses, "gradient_norm": report.gradient_norm}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        now = time.monotonic()
        if now - self.printed < self.every_s and report.step < self.recipe.num_steps:
            return
        means = {name: value / self.count for name, value in self.sums.items()}
        rate = (report.step - self.first_step) / (now - self.began)
        left_s = (self.recipe.num_steps - report.step) / rate
        log.info(
            "%3.0f %%  %d of %d examples  %.0f/s  %s left  %s",
            100 * report.examples / self.recipe.num_examples,
            report.examples,
            self.recipe.num_examples,
            rate * self.recipe.batch_size,
            clock(left_s),
            "  ".join(f"{name} {value:.4f}" for name, value in means.items() if name != "gradient_norm"),
        )
        self.tracker.metrics(
            {
                **{f"train/{name}": value for name, value in means.items()},
                "train/learning_rate": report.learning_rate,
                "train/examples_per_s": rate * self.recipe.batch_size,
            },
            report.examples,
        )
        self.sums, self.count, self.printed = {}, 0, now
