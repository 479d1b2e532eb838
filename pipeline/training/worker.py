"""One training process: builds, goes on from the last checkpoint, trains, judges, saves."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import nn

from models.weights import WeightsError, assigned
from pipeline.base.errors import DataError, JoDiffusionError
from pipeline.base.log import log, set_up_logging
from pipeline.runs import history
from pipeline.runs.provenance import device_name
from pipeline.runs.run import Run
from pipeline.runs.system_metrics import system_metrics
from pipeline.storage.files import is_file, read_bytes
from pipeline.storage.publish import upload, write_bytes
from pipeline.training.averaging import count_statistics
from pipeline.training.checkpoints import Checkpoints, Header
from pipeline.training.config import TrainingConfig
from pipeline.training.feed import Feed
from pipeline.training.loop import Report, TrainingError, stop_if_unfit, train
from pipeline.training.meter import Meter
from pipeline.training.notice import Notice
from pipeline.training.optimisation import Optimisation
from pipeline.training.parallel import Group, recompute_activations, wrapped
from pipeline.training.state import TrainState
from pipeline.training.task import Evaluation, Task, Tensors

WEIGHTS_FOLDER, SCORES = "weights", "scores.json"
FLUSH_S = 20.0
"""How long the end of a worker waits for an MLflow server that is away."""


class Leaving(Exception):  # noqa: N818 (nothing went wrong)
    """A worker's process is being ended; Ray then starts all again, from the checkpoint that was just written."""


@dataclass(frozen=True)
class Assignment:
    """What a worker is told."""

    task: Task
    config: TrainingConfig
    feed: Feed
    held_out: Feed
    run: Run


@dataclass(frozen=True)
class Outcome:
    """How a training ended. Ray would only try again what is raised, so that what must not be tried again is returned.

    `refusal` says why it cannot go on; `stopped` is the step at which the user stopped it, -1 if not."""

    refusal: str = ""
    stopped: int = -1


def work(settings: dict[str, Any]) -> Outcome:
    """What Ray Train runs in each process."""
    try:
        with contextlib.closing(_Worker(settings["assignment"])) as worker, worker.watched():
            return worker.train()
    except TrainingError as error:  # all workers see the same gradient, so they stop together
        return Outcome(refusal=str(error))
    except (JoDiffusionError, WeightsError) as error:
        if ray.train.get_context().get_world_size() > 1:
            raise  # the others wait for this worker
        return Outcome(refusal=str(error))


class _Worker:
    def __init__(self, assignment: Assignment) -> None:
        self.task, self.config, self.run = assignment.task, assignment.config, assignment.run
        self.recipe, self.folder = self.config.optimisation, str(self.run.folder)
        context = ray.train.get_context()
        device = ray.train.torch.get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # whoever asks for "cuda" without a number means this one
        self.group = Group(context.get_world_rank(), context.get_world_size(), device)
        if self.config.workers.threads:
            torch.set_num_threads(self.config.workers.threads)
        set_up_logging()
        torch.manual_seed(self.config.seed)  # every worker begins with the same weights
        net = self.task.build().to(self.group.device)
        sharded = self.config.strategy == "fsdp" and self.group.world_size > 1
        self.state = TrainState(net, self.recipe, self.group, sharded=sharded)
        if self.config.recompute_activations:
            recompute_activations(net)
        if self.config.compile:
            net.compile()
        self.net = wrapped(net, self.group)
        self.checkpoints = Checkpoints(self.folder, self.config.keep_checkpoints)
        self.go_on()
        self.feed, self.held_out_feed = assignment.feed, assignment.held_out
        self.held_out: Tensors = {}
        self.meter = Meter(self.recipe, self.run, self.group, self.config.log_every_s, self.state.step)
        if self.group.leads:
            history.begin(self.folder, self.state.step * self.recipe.batch_size)
            self.run.tracker.tags({"device": device_name(self.group.device)})

    def close(self) -> None:
        """Waits for what is being written, and a moment for MLflow."""
        self.checkpoints.wait()
        self.run.tracker.flush(FLUSH_S)

    def watched(self) -> contextlib.AbstractContextManager[object]:
        """Logs what this worker's machine does, where no other worker of the machine does so."""
        context = ray.train.get_context()
        if context.get_local_rank():
            return contextlib.nullcontext()
        node = "" if self.group.leads else f"node-{context.get_node_rank()}"
        return system_metrics(self.run.tracker, self.config.log_every_s, node)

    def go_on(self) -> None:
        """Takes up the newest checkpoint that is whole, if there is one."""
        if not is_file(f"{self.folder}/config.yaml"):
            raise DataError(
                f"{self.folder}: the machine {platform.node()} does not see this run; set the key `runs` to a folder "
                "that all machines share, or to a store"
            )
        if self.group.leads:
            self.checkpoints.remove_drafts()
        found = torch.tensor(self.checkpoints.newest() if self.group.leads else -1)
        if (step := int(self.group.greatest(found))) < 0:
            return
        with self.checkpoints.open(step) as (tensors, facts):
            self.state.restore(tensors, where=self.checkpoints.path(step))
            self.state.step, self.state.seconds = facts.step, facts.seconds
        self.group.greatest(found)  # all have read
        self.checkpoints.remove_copies()
        if self.group.leads:
            many = "s" * (self.group.world_size > 1)
            log.info(
                "resuming from step %d of %d, on %d worker%s", step, self.recipe.num_steps, self.group.world_size, many
            )

    def train(self) -> Outcome:
        recipe, state, group = self.recipe, self.state, self.group
        batches = self.feed.batches(
            recipe.batch_size, state.step, group.rows(recipe.batch_size), pin=group.device.type == "cuda"
        )
        if group.leads:
            self.hold_out()  # what is wrong with it should be told now, not at the end
        saved_step = state.step
        drain_saved = False
        for report in train(self.task, self.net, state, batches, recipe, group=group, seed=self.config.seed):
            notice = self.meter(report)
            if self.meter.met:
                stop_if_unfit(state)
            judge = self.config.evaluate_examples and _due(report, recipe, self.config.evaluate_examples)
            ends = state.step == recipe.num_steps
            saves = _due(report, recipe, self.config.checkpoint_examples) or judge or ends
            score = self.judge(report.examples) if judge else math.nan
            if saves or notice > Notice.DRAIN or (notice and not drain_saved):
                drain_saved = drain_saved or notice == Notice.DRAIN
                self.save(report, score)
                saved_step = state.step
            if notice == Notice.STOP and not ends:
                return Outcome(stopped=saved_step)
            if notice == Notice.LEAVE and not ends:
                self.checkpoints.wait()  # Ray ends all workers as soon as one is gone
                self.group.greatest(torch.zeros(()))
                raise Leaving(f"a worker is being ended; all go on from step {saved_step}")
        batches.close()
        self.finish()
        return Outcome()

    def save(self, report: Report, score: float) -> None:
        stop_if_unfit(self.state)
        self.checkpoints.wait()  # or two copies of everything would be held
        tensors = self.state.snapshot(self.group)
        if self.group.leads:
            self.checkpoints.write(
                tensors, Header(self.state.step, report.examples, round(self.state.seconds, 1), score)
            )

    def averaged(self) -> nn.Module:
        """The network with the averaged weights, whole, in the worker that leads; all must ask."""
        net: nn.Module = self.state.average
        if self.state.sharded:
            weights = self.state.averaged(self.group)
            if self.group.leads:
                net = assigned(self.task.build, weights, "averaged weights")
                net = net.to(self.group.device).requires_grad_(False).eval()
        if self.group.leads and self.recipe.ema_decay:  # else they are those of the weights already
            count_statistics(
                net,
                self.task,
                partial(self.feed.drawn, batch_size=self.recipe.batch_size),
                batch_size=self.recipe.batch_size,
                seed=self.config.seed,
                device=self.group.device,
            )
        return net

    def judge(self, examples: int) -> float:
        """Scores the averaged weights on held-out data, in the worker that leads; lower is better. All must ask."""
        net = self.averaged()
        if not self.group.leads:
            return math.nan
        key, sign = self.task.judged_by
        return sign * self.evaluated(net, examples).metrics[key]

    def evaluated(self, net: nn.Module, examples: int) -> Evaluation:
        self.hold_out()
        with torch.no_grad():
            evaluation = self.task.evaluate(net, self.held_out)
        shown = "  ".join(f"{k} {v:.4f}" for k, v in evaluation.metrics.items() if "/" not in k)
        log.info("after %d examples: %s", examples, shown)
        tracker = self.run.tracker
        tracker.metrics({f"validation/{name}": value for name, value in evaluation.metrics.items()}, examples)
        for name, picture in evaluation.pictures.items():
            tracker.picture(f"{name}/{examples:010d}.png", picture)
        history.append(self.folder, {"examples": examples, "validation": evaluation.metrics})
        return evaluation

    def hold_out(self) -> None:
        """Reads the held-out examples, once and where they are needed."""
        if not self.held_out:
            found = self.held_out_feed.head(self.config.validation_rows)
            self.held_out = {name: value.to(self.group.device) for name, value in found.items()}

    def finish(self) -> None:
        """Leaves averaged weights and scores in the run."""
        stop_if_unfit(self.state)
        net = self.averaged()
        if self.group.leads:
            self.hold_out()
            with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
                # Before the scores: judging must not cost the weights.
                self.task.save(net, self.held_out, Path(scratch) / WEIGHTS_FOLDER)
                with contextlib.suppress(FileNotFoundError):  # a bundle shows how it was trained
                    content = read_bytes(f"{self.folder}/{history.FILE}")
                    (Path(scratch) / WEIGHTS_FOLDER / history.FILE).write_bytes(content)
                upload(f"{scratch}/{WEIGHTS_FOLDER}", f"{self.folder}/{WEIGHTS_FOLDER}")
            examples = max(self.recipe.num_examples, self.state.step * self.recipe.batch_size)
            evaluation = self.evaluated(net, examples)
            for name, content in evaluation.files.items():
                write_bytes(f"{self.folder}/{name}", content)
            facts = {"examples": examples, "training_s": round(self.state.seconds, 1)}
            write_bytes(f"{self.folder}/{SCORES}", json.dumps({**evaluation.metrics, **facts}, indent=1).encode())


def _due(report: Report, recipe: Optimisation, every: int) -> bool:
    """Whether this step is the first at or behind a multiple of `every` examples."""
    return report.examples // every > (report.examples - recipe.batch_size) // every
