"""Make one generated pair again, alone, from its row."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
from PIL import Image
from pydantic import Field

from jobs import command
from pipeline.config import Config
from pipeline.errors import DataError
from pipeline.generate import remake
from pipeline.run import log, set_up_logging
from pipeline.shards import read_shards


class RemakeConfig(Config):
    """Makes one pair of a run again: the same noise, and on the same kind of hardware the same pixels and mask."""

    pairs: str
    """Folder of a generate run."""
    bundle: str
    """Folder of the weights that made it."""
    pair_id: str = Field(min_length=1)
    """Which pair."""
    output: str = "."
    """Folder for <pair_id>.image.png and <pair_id>.mask.png."""
    device: str = "cpu"
    """Torch device to sample on."""


def main(config: RemakeConfig) -> None:
    set_up_logging()
    rows = read_shards([config.pairs], ["pair_id", "prompt", "seed", "bundle", "sampler"])
    found = rows.filter(pc.equal(rows["pair_id"], config.pair_id)).to_pylist()
    if not found:
        raise DataError(f"{config.pairs}: holds no pair {config.pair_id}; check `pair_id` against the shards")
    made = remake(found[0], config.bundle, config.device)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("image", "mask"):
        path = folder / f"{config.pair_id}.{name}.png"
        Image.fromarray(made[name][0]).save(path)
        log.info("wrote %s", path)


if __name__ == "__main__":
    command(main, RemakeConfig)
