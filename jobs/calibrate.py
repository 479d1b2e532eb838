"""Choose which of a network's outputs are reused from step to step, and leave the choice in the bundle."""

from __future__ import annotations

from jobs import command
from pipeline.base.log import set_up_logging
from pipeline.calibrate import CalibrateConfig, calibrate


def main(config: CalibrateConfig) -> None:
    set_up_logging()
    calibrate(config)


if __name__ == "__main__":
    command(main, CalibrateConfig)
