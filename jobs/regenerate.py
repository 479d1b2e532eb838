"""Make one pair again, alone, from its row, and compare it with what the shards hold."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from pydantic import Field

from jobs import command
from pipeline.base.config import Config
from pipeline.base.log import log, set_up_logging
from pipeline.base.places import Folder, Place
from pipeline.regenerate import compare, find_row


class RegenerateConfig(Config):
    """Makes one pair of a generate run again and says whether it is the same."""

    pairs: Folder
    """Folder of the run."""
    pair_id: str
    """Id of the pair."""
    bundle: Folder
    """Folder of the weights that made it."""
    device: str = "cpu"
    """"cpu" or "cuda"; pixels are the same on the same kind of device only."""
    output: Place = Field("")
    """Folder for <pair_id>.image.png and <pair_id>.mask.png; empty writes none."""


def main(config: RegenerateConfig) -> None:
    set_up_logging()
    made = compare(find_row(config.pairs, config.pair_id), config.bundle, config.device)
    if made.equal:
        log.info("regenerate: every pixel of image and mask is the same")
    else:
        log.info(
            "regenerate: NOT the same: %d of %d image values differ, by at most %d; %d of %d mask pixels",
            made.differing_image_values,
            made.image.size,
            made.largest_image_difference,
            made.differing_mask_pixels,
            made.mask.size,
        )
        log.info("regenerate: other hardware, another version of torch or JPEG images can be the reason")
    if config.output:
        folder = Path(config.output)
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in (("image", made.image), ("mask", made.mask)):
            path = folder / f"{config.pair_id}.{name}.png"
            Image.fromarray(picture).save(path)
            log.info("regenerate: wrote %s", path)


if __name__ == "__main__":
    command(main, RegenerateConfig)
