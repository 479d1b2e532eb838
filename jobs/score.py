"""Say what each pair of a run is worth: of its picture, its mask, its prompt, and whether it is a copy."""

from jobs import command
from pipeline.cluster.connection import cluster
from pipeline.score import ScoreConfig, score


def main(config: ScoreConfig) -> None:
    with cluster():
        score(config)


if __name__ == "__main__":
    command(main, ScoreConfig)
