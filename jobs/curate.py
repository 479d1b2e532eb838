"""Choose pairs of a run by their scores: a selection that stands for them, and a table of what goes and why."""

from jobs import command
from pipeline.curate import CurateConfig, curate


def main(config: CurateConfig) -> None:
    curate(config)


if __name__ == "__main__":
    command(main, CurateConfig)
