"""What every training can be told."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field, model_validator

from pipeline.base.config import Workers
from pipeline.base.errors import ConfigError
from pipeline.base.places import Folder
from pipeline.runs.config import RunConfig
from pipeline.training.optimisation import Optimisation
from pipeline.training.order import bounds, require_rows
from pipeline.training.parallel import Strategy

SAFE_TO_CHANGE = frozenset(
    {
        "optimisation.num_examples",  # a longer training goes on from the last checkpoint of a shorter one
        "optimisation.accumulation",
        "strategy",
        "recompute_activations",
        "compile",
        "checkpoint_examples",
        "keep_checkpoints",
        "evaluate_examples",
        "log_every_s",
        "min_workers",
        "max_failures",
        "cache",
    }
)
"""Keys that may change in a training that has begun, besides those of every run."""


class TrainingConfig(RunConfig):
    """What every training needs besides its network."""

    train: tuple[Folder, ...] = Field(min_length=1)
    """Folders of runs whose shards are trained on; several count as one set."""
    slices: tuple[str, ...] = ()
    """Which pairs of each folder of `train` are taken, as START:STOP in the order of their ids: "0:512" takes 512 drawn
    at random, "512:" all others. Empty takes all."""
    shares: tuple[float, ...] = ()
    """How many rows of a batch come from each folder of `train`, as parts of their sum: 3 1 takes three from the first
    for each one from the second, whatever their sizes. Empty takes all folders as one set, each row once an epoch."""
    balanced: bool = False
    """Rows with rare classes come more often (repeat factor sampling); of pairs alone."""
    validation: Folder
    """Folder of a run with held-out shards."""
    validation_slice: str = ""
    """Which of its pairs are held out, as in `slices`; empty takes all."""
    validation_rows: int = Field(512, ge=1)
    """Held-out examples that the network is judged on."""
    optimisation: Optimisation
    """The recipe."""
    workers: Workers = Workers()
    """Training processes; with GPUs, one each."""
    min_workers: int = Field(0, ge=0)
    """Start, and go on after a loss, with as few as these where there is no room for `workers.num`; more are taken in
    when there is. 0 waits for all."""
    strategy: Strategy = "ddp"
    """How several workers share the network: "ddp" keeps all of it in each, "fsdp" a slice of it."""
    recompute_activations: bool = False
    """Keep only the inputs of blocks for the backward pass: much less memory, about a third more work."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps on GPUs."""
    cache: bool = True
    """Keep the decoded examples in each worker's memory. Off: only those about to come."""
    checkpoint_examples: int = Field(20_000, ge=1)
    """Examples between checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that stay; the best one that was judged stays besides."""
    evaluate_examples: int = Field(0, ge=0)
    """Examples between judgements on held-out data, each with a checkpoint; 0 judges only at the end."""
    log_every_s: float = Field(10.0, gt=0)
    """Seconds between progress lines and MLflow points."""
    max_failures: int = Field(3, ge=0)
    """Restarts from the last checkpoint after workers are lost, until a new one is made; then it counts anew."""

    @model_validator(mode="after")
    def _one_for_each_folder(self) -> TrainingConfig:
        require_one_each(self.train, self.slices, self.shares)
        bounds(self.validation_slice or ":")
        return self

    def check_inputs(self) -> None:
        super().check_inputs()
        if self.workers.num > self.optimisation.batch_size:
            raise ConfigError(
                f"workers.num {self.workers.num} must be at most optimisation.batch_size "
                f"{self.optimisation.batch_size}, so that each worker has a row"
            )
        require_rows(self.train, self.slices)
        require_rows([self.validation], [self.validation_slice])


def require_one_each(
    folders: Sequence[str],
    slices: Sequence[str],
    shares: Sequence[float] = (),
    masks: Sequence[str] = (),
    *,
    key: str = "train",
) -> None:
    """Raises ValueError unless the others are empty, or right and as many as the folders, which are those of `key`."""
    for name, given in (("slices", slices), ("shares", shares), ("masks", masks)):
        if given and len(given) != len(folders):
            raise ValueError(
                f"{name} has {len(given)} entries, but {key} has {len(folders)} folders; give one for each"
            )
    if shares and not (min(shares) > 0 and max(shares) < math.inf):
        raise ValueError(f"shares must be more than 0, got {' '.join(f'{one:g}' for one in shares)}")
    for text in slices:
        bounds(text)
